"""Special tokens in what a user writes and in what the model generates: a picture stands where one was given, nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import Request, RequestError, Turn, load
from omnigen2_rt.runtime.chat.sampling import Sampler
from omnigen2_rt.runtime.pipeline import Pipeline

PICTURE = Image.new("RGB", (64, 64), "red")
IMAGE = "<|image_pad|>"
WITHOUT_IMAGE = "holds {} image tokens, without an image; give images apart from the text"
SMALL = Request(prompt="", width_px=32, height_px=32, steps=1)


@pytest.fixture(scope="module")
def pipe() -> Iterator[Pipeline]:
    with load("nano", backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


def ids_read(pipe: Pipeline, prompt: str) -> list[int]:
    chat = pipe.start_chat()
    chat.ask(prompt, max_new_tokens=1, may_draw=False)
    return list(chat.token_ids)


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<|img|>", "<|vision_start|>"])
def test_special_token_in_a_prompt_is_read_as_the_token(pipe: Pipeline, token: str) -> None:
    """The original does the same."""
    tokenizer = pipe.prompt_encoder.tokenizer
    template = pipe.language_model.chat.first_turn
    assert tokenizer.token_id(token) in tokenizer.encode(token)
    assert ids_read(pipe, f"what {token} now?") == tokenizer.encode(template.replace("{prompt}", f"what {token} now?"))


@pytest.mark.parametrize("text", ["{prompt}", "{number}", "{critique}", "<|", "<img1>:"])
def test_placeholder_in_a_prompt_is_text(pipe: Pipeline, text: str) -> None:
    tokenizer, template = pipe.prompt_encoder.tokenizer, pipe.language_model.chat.first_turn
    before, after = template.split("{prompt}")
    assert ids_read(pipe, text) == tokenizer.encode(before + text + after)


@pytest.mark.parametrize("images", [[], [PICTURE]])
@pytest.mark.parametrize("count", [1, 2])
def test_image_token_in_the_text_is_refused_with_and_without_pictures(
    pipe: Pipeline, images: list[Image.Image], count: int
) -> None:
    """It must not take the place of a picture that was given."""
    text, message = f"what {IMAGE * count}?", WITHOUT_IMAGE.format(count)
    asks: list[Any] = [
        lambda: pipe.chat(text, images),
        lambda: pipe.start_chat().stream(text, images),
        lambda: pipe.chat_batch(["what?", text], [[PICTURE], images]),
        lambda: pipe.start_chat([Turn(prompt=text, images=images, answer="x")]),
        lambda: pipe.encode_prompt(text, images) if images else pipe.chat(text),
    ]
    for ask in asks:
        with pytest.raises(RequestError, match=message):
            ask()


def test_image_token_in_a_drawing_prompt_is_text(pipe: Pipeline) -> None:
    """Drawing prompts show no pictures to the language model; the original reads the token's own embedding too."""
    states = pipe.encode_prompt(f"a {IMAGE} circle")
    assert states.shape == (len(pipe.prompt_encoder.token_ids(f"a {IMAGE} circle")), 128) and np.isfinite(states).all()
    request = Request(prompt="", negative_prompt=IMAGE, width_px=32, height_px=32, steps=1)
    assert pipe.chat("draw a large red circle on a blue background", request=request).images


def test_image_token_in_a_past_answer_is_text(pipe: Pipeline) -> None:
    chat = pipe.start_chat([Turn(prompt="what?", images=[PICTURE], answer=f"a {IMAGE} thing")])
    assert chat.ask("and now?", [PICTURE], max_new_tokens=2).token_ids


def test_generated_image_token_stands_for_no_picture_beside_questions_with_pictures(
    pipe: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it once looked for a picture: "generator raised StopIteration"."""
    image_token = pipe.language_model.chat.image_token_id
    questions, pictures = ["what do you see?", "hello"], [[PICTURE], []]
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", lambda self, logits, ids: image_token)
        together = pipe.chat_batch(questions, pictures, max_new_tokens=5)
        chat = pipe.start_chat()
        chat.ask(questions[0], pictures[0], max_new_tokens=5)
        chat.ask("and now?", [PICTURE], max_new_tokens=5)
    assert [answer.token_ids for answer in together] == [(image_token,) * 5] * 2
    resumed = pipe.start_chat(chat.turns)
    answers = [talk.ask("and then?", [PICTURE], max_new_tokens=3, may_draw=False) for talk in (chat, resumed)]
    assert answers[0].token_ids == answers[1].token_ids and chat.token_ids == resumed.token_ids


def test_last_token_without_a_text_is_read_by_the_next_turn(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may have more rows of logits than its tokenizer has tokens; such a token was once lost."""
    unknown = pipe.prompt_encoder.tokenizer.vocabulary_size
    assert pipe.prompt_encoder.tokenizer.decode([unknown], skip_special=False) == ""
    chat = pipe.start_chat()
    with monkeypatch.context() as patch:
        patch.setattr(Sampler, "sample", lambda self, logits, ids: unknown)
        chat.ask("what?", max_new_tokens=1)
    chat.ask("and now?", max_new_tokens=1, may_draw=False)
    assert unknown in chat.token_ids
