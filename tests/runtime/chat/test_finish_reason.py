"""Why an answer ended: the model ended it, a limit cut it, or the caller cancelled it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image

from omnigen2_rt import Request, load
from omnigen2_rt.runtime.chat.sampling import Sampler
from omnigen2_rt.runtime.pipeline import Pipeline

ASK = "what do you see?"
DRAW = "draw a large red circle on a blue background"
PICTURE = Image.new("RGB", (64, 64), "red")
SMALL = Request(prompt="", width_px=32, height_px=32, steps=2)


@pytest.fixture(scope="module")
def pipe() -> Iterator[Pipeline]:
    with load("nano", backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


def test_answer_that_the_model_ends_has_stopped(pipe: Pipeline) -> None:
    answer = pipe.chat(ASK, [PICTURE])
    assert answer.finish_reason == "stop"
    cut = pipe.chat(ASK, [PICTURE], max_new_tokens=len(answer.token_ids))
    assert (cut.token_ids, cut.finish_reason) == (answer.token_ids, "stop")


def test_answer_at_its_limit_says_that_it_is_cut(pipe: Pipeline) -> None:
    """It once looked like a whole one."""
    assert pipe.chat(ASK, [PICTURE], max_new_tokens=2).finish_reason == "length"
    stop = pipe.chat(ASK, [PICTURE]).text[3:6]
    assert pipe.chat(ASK, [PICTURE], stop=[stop]).finish_reason == "stop"


def test_answer_that_fills_the_context_says_so(pipe: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = pipe.bundle.manifest.chat
    assert chat is not None
    manifest = replace(pipe.bundle.manifest, chat=replace(chat, max_context_tokens=60))
    short = Pipeline(replace(pipe.bundle, manifest=manifest), pipe.backend)
    monkeypatch.setattr(Sampler, "sample", lambda self, logits, ids: 70)
    conversation = short.start_chat()
    answer = conversation.ask("hello", max_new_tokens=2**63 - 1)
    assert answer.finish_reason == "context" and len(conversation.token_ids) == 60


def test_cancelled_answer_says_so(pipe: Pipeline) -> None:
    assert pipe.chat(ASK, [PICTURE], on_token=lambda text: False).finish_reason == "cancelled"
    stream = pipe.start_chat().stream(ASK, [PICTURE])
    next(stream)
    stream.close()
    assert stream.finish().finish_reason == "cancelled"


def test_picture_has_stopped_and_a_drawing_that_is_cancelled_has_not(pipe: Pipeline) -> None:
    assert pipe.chat(DRAW, request=SMALL).finish_reason == "stop"
    cancelled = pipe.chat(DRAW, request=SMALL, on_step=lambda step: False)
    assert (cancelled.finish_reason, cancelled.images) == ("cancelled", [])


def test_each_answer_of_several_has_its_own_reason(pipe: Pipeline) -> None:
    whole = pipe.chat(ASK, [PICTURE])
    limit = len(pipe.chat("what colour is the background?", [PICTURE]).token_ids)
    assert limit < len(whole.token_ids)
    questions = [ASK, "what colour is the background?"]
    together = pipe.chat_batch(questions, [[PICTURE]] * 2, max_new_tokens=limit)
    assert [answer.finish_reason for answer in together] == ["length", "stop"]
