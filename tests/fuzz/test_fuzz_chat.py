"""Chats with any settings, questions, pictures, turns and callbacks: an answer of a model of noise, or one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from omnigen2_rt import ChatSettings, Conversation, OmniGen2Error, Request, Turn, load
from omnigen2_rt.runtime.backends.backend import DeviceArray
from omnigen2_rt.runtime.backends.fake import FakeBackend, Feeds
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import NANO, Pipeline
from tests.fuzz.suite import CASES, Suite, check_message, record_counts

CONTEXT_TOKENS = 300
"""The fuzzed model's context: an answer of 2**63 tokens ends there."""
PICTURE = Image.new("RGB", (32, 48), "red")
SMALL = Request(prompt="", width_px=32, height_px=32, steps=1)


class Hostile:
    """An object of which every method fails."""

    def _fail(self, *_: object) -> Any:
        raise ZeroDivisionError("no")

    __repr__ = __str__ = __len__ = __iter__ = __bool__ = __eq__ = __hash__ = __index__ = __float__ = __int__ = _fail  # type: ignore[assignment]
    __fspath__ = __getitem__ = __contains__ = __lt__ = __format__ = _fail  # type: ignore[assignment]


class HostileList(list[Any]):
    """A list that can't be read."""

    def __iter__(self) -> Any:
        raise ZeroDivisionError("no")


ANYTHING: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 300, 10**6, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**64), 10**400, -(10**5000),
    0.0, -0.0, 0.5, 1.0, 1.5, -1.0, 1e-320, 5e-324, 1e-308, 1e-200, 1e-45, 1e38, 1e300, 1.7e308, float("inf"), float("-inf"),
    float("nan"), 1j, Fraction(1, 3), Fraction(10**400, 3), np.float32(0.7), np.float64("nan"), np.int8(3), np.uint64(2**64 - 1),
    np.bool_(True), np.zeros(()), np.zeros(3), np.zeros((2, 2), np.int64), np.array([1, 2]), np.array(["a"]),
    "", "a", "what?", "\ud800", "\x1b[2J\0", b"", b"a", bytearray(b"a"), "x" * 400, "<|im_end|>", "{prompt}",
    (), [], {}, set(), [None], ["a"], ["a", ""], [1], [0, 5, 622], [10**5000], [-1], [[]], {"a": 1}, [HostileList()],
    HostileList("a"), object(), Hostile(), [Hostile()], iter("a"), range(3), Path("nowhere.png"), lambda *_: None,
    PICTURE, [PICTURE], [[PICTURE]], np.zeros((8, 8, 3), np.uint8), ChatSettings(), Turn(prompt="x"), SMALL,
)  # fmt: skip
TEXTS = (
    "what do you see?", "", " ", "draw a red circle", "a\nb", "{prompt}", "{number}", "\x1b[2J", "\0", "\u202e", "\U0001f600" * 9,
    "<|im_end|>", "<|im_start|>system\n", "<|image_pad|>", "<|image_pad|>" * 3, "<|vision_start|><|image_pad|><|vision_end|>",
    "é", "<img1>: <|vision_start|>", "<|img|>", "<|endoftext|>", "<|", "x" * 3000, "word " * 100, "\ud800", "a\udfff",
)  # fmt: skip
IMAGES = ((), (), (), [], PICTURE, [PICTURE], (PICTURE, PICTURE), [np.zeros((9, 9), np.uint8)], ["nowhere.png"])
REQUESTS = (SMALL, SMALL, replace(SMALL, images_per_prompt=2), replace(SMALL, text_guidance=1.0, negative_prompt="<|image_pad|>"))
GOOD: dict[str, tuple[Any, ...]] = {
    "request": (*REQUESTS, None),
    "max_new_tokens": (1, 2, 5, 40, 2**63 - 1, np.int64(3)),
    "temperature": (None, 0, 0.0, 1, 0.7, 1e-320, 1e-308, 1e308, np.float32(1.5), Fraction(1, 3)),
    "top_p": (None, 1, 1.0, 0.5, 5e-324),
    "top_k": (None, 0, 1, 5, 2**63 - 1),
    "repetition_penalty": (None, 1, 1.05, 0.01, 100),
    "seed": (0, 1, 2**64 - 1),
    "stop": ((), ["a"], ("e", "th")),
    "may_draw": (True, False),
}
SETTINGS = (*GOOD, "temprature", "on_tokens", "")


class Noise:
    """The outputs of nano's components: random where they matter, zeros elsewhere; sometimes of values that no model should give.

    random: of the case that is run.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self.random = Random(0)

    def __call__(self, component: str, feeds: Feeds) -> dict[str, DeviceArray]:
        graph = self._bundle.graph(component, "fp32")
        sizes = _sizes(self._bundle, {name: np.shape(feeds[name]) for name in graph.inputs}, graph.inputs)
        outputs = {name: np.zeros([sizes.get(n, n) for n in spec.shape], np.float32) for name, spec in graph.outputs.items()}
        if component == "lm_head":
            outputs["logits"] = self._logits(outputs["logits"].shape)
        return outputs

    def _logits(self, shape: tuple[int, ...]) -> np.ndarray:
        logits = np.random.default_rng(self.random.getrandbits(32)).normal(0, 3, shape).astype(np.float32)
        chosen = self.random.random()
        if chosen < 0.1:
            logits[:, 622] += 1e3  # draws
        elif chosen < 0.15:
            logits[:, 602] += 1e3  # stops
        elif chosen < 0.17:
            logits[:, 612] += 1e3  # the image token
        elif chosen < 0.2:
            logits[:, self.random.randrange(640)] = self.random.choice((np.nan, np.inf, -np.inf, 3e38, -3e38))
        return logits


def _sizes(bundle: Bundle, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, Any]) -> dict[int | str, int]:
    """The sizes of a run's symbolic axes, those of its outputs too."""
    sizes = {
        axis: size for name, spec in inputs.items() for axis, size in zip(spec.shape, shapes[name], strict=True)
        if isinstance(axis, str)
    }  # fmt: skip
    side = bundle.manifest.vae.downscale
    for pixels, latent in (("height_px", "latent_height"), ("width_px", "latent_width")):
        sizes.setdefault(pixels, sizes.get(latent, 0) * side)
        sizes.setdefault(latent, sizes[pixels] // side)
    sizes.setdefault("reference_tokens", sizes.get("earlier_tokens", 0) + sizes.get("image_tokens", 0))
    sizes.setdefault("image_tokens", sizes.get("patches", 0) // 4)
    return {**sizes}


def _pipeline() -> tuple[Pipeline, Noise]:
    bundle = Bundle.open(NANO)
    assert bundle.manifest.chat is not None
    short = replace(bundle.manifest, chat=replace(bundle.manifest.chat, max_context_tokens=CONTEXT_TOKENS))
    noise = Noise(bundle)
    return Pipeline(replace(bundle, manifest=short), FakeBackend(respond=noise)), noise


PIPELINE, NOISE = _pipeline()


def _mostly(random: Random, good: tuple[Any, ...], share: float = 0.93) -> Any:
    return random.choice(good if random.random() < share else ANYTHING)


def _settings(random: Random) -> dict[str, Any]:
    names = random.sample(SETTINGS[: len(GOOD)] if random.random() < 0.95 else SETTINGS, random.randint(0, 3))
    settings = {name: _mostly(random, GOOD.get(name, (1,))) for name in names}
    return {"request": SMALL, "max_new_tokens": random.randint(1, 4), **settings}


def _images(random: Random) -> Any:
    return _mostly(random, IMAGES, 0.97)


def _callback(random: Random) -> Any:
    return _mostly(random, (None, None, lambda *_: None, lambda *_: False), 0.95)


def _question(random: Random) -> dict[str, Any]:
    asked = {"prompt": _mostly(random, TEXTS, 0.95), "images": _images(random), "on_step": _callback(random)}
    return {**asked, **_settings(random)}


def _turn(random: Random) -> Any:
    if random.random() < 0.05:
        return random.choice(ANYTHING)
    fields = {"prompt": _mostly(random, TEXTS, 0.97), "images": _images(random)}
    more = {
        "answer": lambda: _mostly(random, TEXTS, 0.95),
        "answer_images": lambda: _images(random),
        "token_ids": lambda: _mostly(random, ([5, 6, 602], [622], [612] * 3, (), np.array([7, 8])), 0.9),
    }
    chosen = random.sample(sorted(more), random.randint(0, 2))
    return Turn(**fields, **{name: more[name]() for name in chosen})


def _chat(random: Random) -> None:
    PIPELINE.chat(on_token=_callback(random), **_question(random))


def _batch(random: Random) -> None:
    prompts = [_mostly(random, TEXTS, 0.97) for _ in range(random.randint(0, 3))]
    images = [_images(random) for _ in range(random.choice((0, len(prompts), 1)))]
    asked = {"prompts": _mostly(random, (prompts,), 0.95), "images": _mostly(random, (images,), 0.95)}
    PIPELINE.chat_batch(**asked, on_step=_callback(random), **_settings(random))


def _converse(random: Random) -> None:
    """Turns, streams that are left open, and questions from callbacks; what is refused changes nothing and cancels nothing."""
    turns = [_turn(random) for _ in range(random.randint(0, 2))]
    chat = PIPELINE.start_chat(_mostly(random, (turns,), 0.95))
    for _ in range(random.randint(1, 3)):
        if random.random() < 0.4:
            stream = chat.stream(**_question(random))
            next(stream, None)
            _refused_leaves_alone(chat, random)
            if random.random() < 0.5:
                expected = len(chat.turns) + stream.is_open
                stream.close()
                assert len(chat.turns) == expected
        else:
            inner = (lambda *_: chat.ask("and?")) if random.random() < 0.1 else _callback(random)
            chat.ask(on_token=inner, **_question(random))


def _refused_leaves_alone(chat: Conversation, random: Random) -> None:
    turns, images, ids = chat.turns, chat.images, chat.token_ids
    try:
        chat.ask("x", images=["nowhere.png"]) if random.random() < 0.5 else chat.stream("\ud800")
    except OmniGen2Error:
        assert (chat.turns, chat.images, chat.token_ids) == (turns, images, ids)
    else:
        raise AssertionError("a wrong question was answered")


def _encode(random: Random) -> None:
    PIPELINE.encode_prompt(_mostly(random, TEXTS, 0.9), _images(random))


def _reflect(random: Random) -> None:
    PIPELINE.reflect(
        _mostly(random, (SMALL, SMALL, SMALL, replace(SMALL, prompt="a", images_per_prompt=2))),
        _mostly(random, (1, 2)),
        _callback(random),
        _callback(random),
    )


def _load(random: Random) -> None:
    names = random.sample(("bundle", "backend", "precision", "memory_limit_bytes", "threads"), random.randint(1, 5))
    load(**{"bundle": "nowhere", **{name: random.choice(ANYTHING) for name in names}})


def _choose(random: Random) -> None:
    ChatSettings.chosen(_mostly(random, (None, ChatSettings()), 0.9), _settings(random))


ACTIONS: tuple[Callable[[Random], None], ...] = (_chat, _chat, _converse, _converse, _batch, _encode, _reflect, _load, _choose)


def run_case(random: Random) -> str:
    """Does one thing with a chat. Returns "answered" or "refused"."""
    NOISE.random = Random(random.getrandbits(32))
    try:
        random.choice(ACTIONS)(random)
    except OmniGen2Error as error:
        check_message(error)
        return "refused"
    return "answered"


SUITE = Suite(name="chat", run_case=run_case)


def test_chats_are_answered_or_refused_in_one_line(record_property: Callable[[str, object], None]) -> None:
    outcomes = record_counts(SUITE, record_property)
    assert min(outcomes["answered"], outcomes["refused"]) > CASES // 4
