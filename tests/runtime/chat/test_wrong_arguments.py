"""Wrong arguments of the chat's functions: one line each, before a component runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import BackendError, BundleError, ChatSettings, OmniGen2Error, Request, RequestError, Turn, load
from omnigen2_rt.runtime.backends.fake import FakeBackend, Feeds
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import NANO, Pipeline
from tests.runtime.hostile_values import Disguised

PICTURE = Image.new("RGB", (32, 32))


class Hostile:
    """An object whose methods fail."""

    def _fail(self, *_: object) -> Any:
        raise ZeroDivisionError("no")

    __repr__ = __str__ = __len__ = __iter__ = __bool__ = __eq__ = __hash__ = __fspath__ = _fail  # type: ignore[assignment]


class HostileList(list[Any]):
    """A list that can't be read."""

    def __iter__(self) -> Iterator[Any]:
        raise ZeroDivisionError("no")


@pytest.fixture(scope="module")
def idle() -> Pipeline:
    """A pipeline of which no component may run."""
    return Pipeline(Bundle.open(NANO), FakeBackend(respond=lambda component, feeds: pytest.fail(f"{component} ran")))


CHAT: tuple[tuple[dict[str, Any], str], ...] = (
    ({"prompt": 3}, r"prompt must be text \(str\), not int"),
    ({"prompt": None}, "prompt must be text"),
    ({"prompt": "a\ud800"}, "prompt is not valid Unicode text at character 1"),
    ({"prompt": "a " * 500_000}, "this model reads at most 4096: shorten it or start anew"),
    ({"prompt": "a" * 1_000_001}, "prompt has 1000001 characters; at most 1000000 are read"),
    ({"images": 3}, "images must be a sequence of images, not int"),
    ({"images": [3]}, r"images\[0\] is a int"),
    ({"images": HostileList([PICTURE])}, "images can't be read: ZeroDivisionError"),
    ({"images": [Hostile()]}, "image"),
    ({"on_token": 3}, "on_token=3 is not a function"),
    ({"on_step": "x"}, "on_step='x' is not a function"),
    ({"settings": 3}, "settings must be ChatSettings or None, not int"),
    ({"settings": Hostile()}, "settings must be ChatSettings or None, not Hostile"),
    ({"temperature": Hostile()}, "temperature=.* is not a number"),
    ({"stop": HostileList(["a"])}, "stop can't be read"),
    ({"": 3}, "a chat has no setting ''"),
)


@pytest.mark.parametrize(("arguments", "message"), CHAT)
def test_chat_with_a_wrong_argument_is_refused(idle: Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        idle.chat(**{"prompt": "what?", **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": "what?"}, "prompts must be a sequence of texts, not str"),
        ({"prompts": 3}, "prompts must be a sequence of texts, not int"),
        ({"prompts": {"a": 1}}, "prompts must be a sequence of texts, not dict"),
        ({"prompts": ["a", 3]}, r"prompts\[1\] must be text \(str\), not int"),
        ({"prompts": HostileList(["a"])}, "prompts can't be read"),
        ({"images": 3}, "images must be a sequence of lists of images, one for each prompt, not int"),
        ({"images": [3, 3]}, "images must be a sequence of images, not int"),
        ({"images": [[]]}, "1 lists of images were given for 2 prompts"),
        ({"images": np.zeros((8, 8, 3), np.uint8)}, "8 lists of images were given for 2 prompts"),
        ({"on_step": 3}, "on_step=3 is not a function"),
    ],
)
def test_batch_with_a_wrong_argument_is_refused(idle: Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        idle.chat_batch(**{"prompts": ["a", "b"], **arguments})


def test_empty_batches_have_no_answers(idle: Pipeline) -> None:
    assert idle.chat_batch([]) == idle.chat_batch((), ()) == idle.chat_batch([], np.zeros(0)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("turns", [3, "x", {"a": 1}, [3], [None], HostileList([]), Hostile()], ids=map(str, range(7)))
def test_conversation_resumed_from_something_else_is_refused(idle: Pipeline, turns: Any) -> None:
    with pytest.raises(RequestError, match="^turns (must be a sequence of Turn|can't be read)"):
        idle.start_chat(turns)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), r"text must be text \(str\), not int"),
        (("\ud800",), "text is not valid Unicode text"),
        (("a " * 500_000,), "the prompt has .* tokens; this model reads at most 4096: shorten it"),
        (("a", 3), "images must be a sequence of images"),
        (("a", "nowhere.png"), "'nowhere.png' does not exist"),
    ],
)
def test_encoding_something_else_is_refused(idle: Pipeline, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        idle.encode_prompt(*arguments)


def test_single_picture_of_a_prompt_need_not_be_wrapped() -> None:
    """An array was once asked whether it is true."""
    with load("nano", backend="ort-cpu", precision="fp32", threads=1) as pipe:
        wrapped = pipe.encode_prompt("what?", [np.zeros((32, 32, 3), np.uint8)])
        assert np.array_equal(pipe.encode_prompt("what?", np.zeros((32, 32, 3), np.uint8)), wrapped)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"request": "a cat"}, "request must be a Request, not str"),
        ({"rounds": None}, "rounds=None is not a whole number"),
        ({"on_step": 3}, "on_step=3 is not a function"),
        ({"on_round": 3}, "on_round=3 is not a function"),
    ],
)
def test_reflection_with_a_wrong_argument_draws_nothing(idle: Pipeline, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        idle.reflect(**{"request": Request(prompt="a"), **arguments})


@pytest.mark.parametrize(("field", "message"), [("vision", "can't look at pictures"), ("chat", "can only draw")])
def test_reflection_without_eyes_or_voice_draws_nothing(idle: Pipeline, field: str, message: str) -> None:
    """The picture was once drawn before the model was found to be blind."""
    manifest = replace(idle.bundle.manifest, **{field: None})
    blind = Pipeline(replace(idle.bundle, manifest=manifest), idle.backend)
    with pytest.raises(BundleError, match=message):
        blind.reflect(Request(prompt="a"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bundle": 3}, r"bundle must be the name of a folder \(str or path\), not int"),
        ({"bundle": b"nano"}, "bundle must be the name of a folder"),
        ({"bundle": "a\0b"}, "holds a null character"),
        ({"bundle": "\ud800"}, "can't be read: .*surrogates not allowed"),
        ({"bundle": "x" * 5000}, "is not the name of a folder: .*too long"),
        ({"bundle": Hostile()}, "bundle .* is not the name of a folder"),
        ({"bundle": ""}, "is not a bundle"),
        ({"backend": 3}, r"backend must be text \(str\), not int"),
        ({"backend": []}, "backend must be text"),
        ({"precision": []}, "precision must be text"),
        ({"precision": "fp8"}, "can't run fp8"),
        ({"threads": object()}, "threads=.* is not a whole number of 1 or more"),
        ({"threads": Hostile()}, "threads=.* is not a whole number of 1 or more"),
        ({"threads": 10**5000}, r"threads=\(an integer of 16610 bits\) is above the most here"),
        ({"memory_limit_bytes": -1}, "memory_limit_bytes=-1 is not a whole number of 1 or more"),
        ({"memory_limit_bytes": 1e9}, "memory_limit_bytes=1000000000.0 is not a whole number"),
    ],
)
def test_load_with_a_wrong_argument_says_so(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OmniGen2Error, match=message):
        load(**{"backend": "ort-cpu", **arguments})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("output", ["logits", "hidden_states"])
def test_values_that_are_not_finite_are_an_error(output: str, value: float) -> None:
    """They once gave a numpy warning and an answer of the first token again and again."""
    with pytest.raises(BackendError, match="gave values that are not finite in fp32 on fake: try precision fp32"):
        Pipeline(Bundle.open(NANO), FakeBackend(respond=_responding(output, value))).chat("hello", temperature=1.0)


def _responding(output: str, value: float) -> Callable[[str, Feeds], dict[str, Any]]:
    def respond(component: str, feeds: Feeds) -> dict[str, Any]:
        if component == "token_embedding":
            outputs = {"inputs_embeds": np.zeros((*np.shape(feeds["input_ids"]), 128), np.float32)}
        elif component == "language_model":
            outputs = {"hidden_states": np.zeros(np.shape(feeds["inputs_embeds"]), np.float32)}
        else:
            outputs = {"logits": np.zeros((len(feeds["hidden_states"]), 640), np.float32)}
        if output in outputs:
            outputs[output][..., -1] = value
        return outputs

    return respond


class NoNumber(int):
    """An integer that can't be converted."""

    def __int__(self) -> int:
        raise ZeroDivisionError("no")

    __index__ = __float__ = __int__  # type: ignore[assignment]


@pytest.mark.parametrize("make", [Disguised, lambda: NoNumber(3), lambda: np.timedelta64(3, "s")])
@pytest.mark.parametrize("field", [field.name for field in fields(ChatSettings)])
def test_setting_whose_methods_raise_is_refused_by_its_name(field: str, make: Callable[[], Any]) -> None:
    """It ended in the value's own exception."""
    with pytest.raises(RequestError, match=f"^{field}"):
        ChatSettings(**{field: make()})


@pytest.mark.parametrize("field", [field.name for field in fields(Turn)])
def test_field_of_a_turn_whose_methods_raise_is_refused_by_its_name(field: str) -> None:
    with pytest.raises(RequestError, match=f"^{field}"):
        Turn(**{"prompt": "what?", field: Disguised()})
    with pytest.raises(RequestError, match=r"^token_ids\[0\]"):
        Turn(prompt="what?", token_ids=[np.timedelta64(3, "s")])  # type: ignore[list-item]


@pytest.mark.parametrize(
    "use",
    [
        lambda pipe, value: pipe.chat(value),
        lambda pipe, value: pipe.chat("what?", value),
        lambda pipe, value: pipe.chat("what?", [value]),
        lambda pipe, value: pipe.chat("what?", settings=value),
        lambda pipe, value: pipe.chat_batch(value),
        lambda pipe, value: pipe.chat_batch([value]),
        lambda pipe, value: pipe.chat_batch(["what?"], value),
        lambda pipe, value: pipe.start_chat(value),
        lambda pipe, value: pipe.start_chat([value]),
        lambda pipe, value: pipe.encode_prompt(value),
        lambda pipe, value: pipe.encode_prompt("what?", value),
        lambda pipe, value: pipe.generate(value),
        lambda pipe, value: pipe.reflect(value),
        lambda pipe, value: pipe.reflect(Request(prompt="a"), value),
    ],
)
def test_argument_whose_class_raises_is_refused(idle: Pipeline, use: Callable[[Pipeline, Any], Any]) -> None:
    """It ended in the value's own exception."""
    with pytest.raises(RequestError, match="can't be read: OSError"):
        use(idle, Disguised())
