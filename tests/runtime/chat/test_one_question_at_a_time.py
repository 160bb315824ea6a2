"""A conversation answers one question at a time: questions from callbacks and other threads, and questions that are refused."""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt import Request, RequestError, load
from omnigen2_rt.runtime.chat.conversation import Conversation
from omnigen2_rt.runtime.pipeline import Pipeline

ASK = "what do you see?"
DRAW = "draw a large red circle on a blue background"
PICTURE = Image.new("RGB", (64, 64), "red")
SMALL = Request(prompt="", width_px=32, height_px=32, steps=2)
AT_WORK = "this conversation is at work on an answer"


@pytest.fixture(scope="module")
def pipe() -> Iterator[Pipeline]:
    with load("nano", backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        yield pipeline


def refused_within(chat: Conversation) -> Any:
    """A callback that asks another question, which must be refused, and goes on."""

    def ask(_: object) -> None:
        with pytest.raises(RequestError, match=AT_WORK):
            chat.ask("and now?")

    return ask


@pytest.mark.parametrize(
    ("question", "callback"),
    [({"prompt": ASK, "images": [PICTURE]}, "on_token"), ({"prompt": DRAW, "request": SMALL}, "on_step")],
)
def test_question_from_a_callback_is_refused_and_the_turn_kept_once(
    pipe: Pipeline, question: dict[str, Any], callback: str
) -> None:
    """The inner question once closed the outer answer, which was kept again at its own end."""
    alone = pipe.chat(**question)
    chat = pipe.start_chat()
    answer = chat.ask(**question, **{callback: refused_within(chat)})
    assert (answer.text, answer.token_ids, len(answer.images)) == (alone.text, alone.token_ids, len(alone.images))
    assert [turn.prompt for turn in chat.turns] == [question["prompt"]]


def test_question_from_a_callback_that_is_not_caught_ends_the_answer(pipe: Pipeline) -> None:
    chat = pipe.start_chat()
    with pytest.raises(RequestError, match=AT_WORK):
        chat.ask(ASK, [PICTURE], on_token=lambda text: chat.ask("and now?"))
    assert chat.turns == () and chat.ask(ASK, [PICTURE]).text


def test_stream_is_not_read_or_closed_from_its_own_callback(pipe: Pipeline) -> None:
    def interfere(step: object) -> None:
        for use in (stream.close, stream.finish, lambda: next(stream)):
            with pytest.raises(RequestError, match=AT_WORK):
                use()

    stream = (chat := pipe.start_chat()).stream(DRAW, request=SMALL, on_step=interfere)
    assert len(stream.finish().images) == 1 and len(chat.turns) == 1


def test_question_from_another_thread_is_refused_while_one_is_answered(pipe: Pipeline) -> None:
    chat, begun, goes_on = pipe.start_chat(), Event(), Event()

    def wait(text: str) -> None:
        begun.set()
        assert goes_on.wait(30)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(chat.ask, ASK, [PICTURE], on_token=wait)
        assert begun.wait(30)
        try:
            with pytest.raises(RequestError, match=AT_WORK):
                chat.ask("and now?")
        finally:
            goes_on.set()
        assert answer.result(30).text == pipe.chat(ASK, [PICTURE]).text
    assert len(chat.turns) == 1


def test_conversations_of_several_threads_get_the_answers_of_each_alone(pipe: Pipeline) -> None:
    pictures = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue", "yellow", "green")]
    alone = [pipe.chat(ASK, [picture]).token_ids for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = [*pool.map(lambda picture: pipe.chat(ASK, [picture]).token_ids, pictures * 2)]
    assert together == alone * 2


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"prompt": "x", "images": ["nowhere.png"]}, "'nowhere.png' does not exist"),
        ({"prompt": "x", "images": 3}, "images must be a sequence of images"),
        ({"prompt": "x", "images": [Image.new("RGB", (900, 2))]}, "too narrow"),
        ({"prompt": "\ud800"}, "prompt is not valid Unicode text"),
        ({"prompt": "<|image_pad|>"}, "holds 1 image tokens, without an image"),
        ({"prompt": "a " * 9000}, "this model reads at most 4096: shorten it or start anew"),
        ({"prompt": "x", "temperature": -1}, "temperature=-1.0 is out of range"),
        ({"prompt": "x", "on_step": 3}, "on_step=3 is not a function"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value[:20],
)
def test_question_that_is_refused_leaves_an_open_stream_as_it_is(
    pipe: Pipeline, question: dict[str, Any], message: str
) -> None:
    """The open answer was once cancelled before the question was looked at."""
    chat = pipe.start_chat()
    stream = chat.stream(ASK, [PICTURE])
    said = next(stream)
    for ask in (chat.ask, chat.stream):
        with pytest.raises(RequestError, match=message):
            ask(**question)
    assert stream.is_open and chat.turns == () and chat.images == []
    assert said + "".join(stream) == pipe.chat(ASK, [PICTURE]).text
    assert [turn.answer for turn in chat.turns] == [stream.finish().text]


def raising(error: BaseException) -> Any:
    def call(_: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("question", "callback"),
    [({"prompt": ASK, "images": [PICTURE]}, "on_token"), ({"prompt": DRAW, "request": SMALL}, "on_step")],
)
@pytest.mark.parametrize("error", [ValueError(), SystemExit(), CancelledError()], ids=repr)
def test_callback_that_raises_anything_leaves_the_conversation_as_it_was(
    pipe: Pipeline, question: dict[str, Any], callback: str, error: BaseException
) -> None:
    """The half answer was kept as a turn by the next question where the error was no Exception."""
    chat = pipe.start_chat()
    with pytest.raises(type(error)):
        chat.ask(**question, **{callback: raising(error)})
    assert chat.ask(ASK, [PICTURE]).text == pipe.chat(ASK, [PICTURE]).text
    assert len(chat.turns) == 1


@pytest.mark.parametrize("is_streamed", [False, True])
def test_on_step_that_raises_stop_iteration_is_named_as_the_cause(pipe: Pipeline, is_streamed: bool) -> None:
    """It ended the loop over the answer as its end does; only "this answer failed" was said."""
    chat = pipe.start_chat()
    with pytest.raises(RequestError, match="a callback raised StopIteration"):
        if is_streamed:
            chat.stream(DRAW, request=SMALL, on_step=raising(StopIteration())).finish()
        else:
            chat.ask(DRAW, request=SMALL, on_step=raising(StopIteration()))
    assert chat.turns == ()


@pytest.mark.parametrize("answer", [False, np.False_])
def test_on_token_that_returns_false_of_any_kind_cancels(pipe: Pipeline, answer: object) -> None:
    """numpy's went on: a comparison of arrays gives that."""
    assert pipe.chat(ASK, [PICTURE], on_token=lambda text: answer).finish_reason == "cancelled"
