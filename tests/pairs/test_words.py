"""Captions and instructions: what a writer's answers must be to count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from omnigen2_rt.pairs.frames import Frame
from omnigen2_rt.pairs.words import (
    DENIED,
    DOUBTED,
    NO_CAPTION,
    NO_CHANGE,
    NO_INSTRUCTION,
    UNFOUNDED,
    Questions,
    Writer,
)
from omnigen2_rt.runtime.chat.reflection import finds_nothing
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.manifest import ReflectionPrompts

PROMPTS = ReflectionPrompts(critique="fits? {prompt}", edit="mend {critique} for {prompt}", judge="grade {prompt}", content="yes")
QUESTIONS = Questions(caption="what?", reflection=PROMPTS)
PAIRED = Questions(caption="what?", reflection=PROMPTS, pair="is it {instruction}?")
BEFORE, AFTER = (Frame(number=number, path=Path(f"{number}.png"), digest=str(number)) for number in range(2))
CAPTIONS = ("a red star", "a blue star")


def writer_of(answers: dict[str, str], questions: Questions = QUESTIONS) -> Writer:
    """A writer whose model answers by the question's beginning."""

    def ask(question: str, frames: Sequence[Frame]) -> str:
        return next(answer for begin, answer in answers.items() if question.startswith(begin))

    return Writer(ask, questions)


@pytest.mark.parametrize(
    ("critique", "is_content"),
    [
        ("nothing", True), ("Nothing.", True), ("**Nothing**", True), ("Nothing is wrong", True), ("nothing, it fits", True),
        ("Nothing matches the request", False), ("It shows nothing", False), ("Nothingness", False), ("", False),
    ],
)  # fmt: skip
def test_critique_finds_nothing_only_where_it_says_so(critique: str, is_content: bool) -> None:
    assert finds_nothing(critique, "nothing") == is_content


@pytest.mark.parametrize(
    ("caption", "critique", "problem"),
    [
        ("a red star", "Yes.", ""),
        ("a red star", "no, it is blue", DOUBTED),
        ("  \n", "yes", NO_CAPTION),
        ("a star " * 300, "yes", NO_CAPTION),
    ],
)
def test_caption_counts_if_the_model_finds_nothing_wrong(caption: str, critique: str, problem: str) -> None:
    assert writer_of({"what?": caption, "fits?": critique}).caption(BEFORE).problem == problem


@pytest.mark.parametrize(
    ("critique", "edit", "problem"),
    [
        ("no, it is red", "make the star blue", ""),
        ("yes", "make the star blue", NO_CHANGE),
        ("no, it is red", "", NO_INSTRUCTION),
        ("no, it is red", "make it so " * 300, NO_INSTRUCTION),
        ("no, it is red", "make the star green", UNFOUNDED),
        ("no, it is red", "make two stars", UNFOUNDED),
        ("no, there are two", "remove one of the two stars", UNFOUNDED),
    ],
)
def test_instruction_counts_if_it_names_only_what_is_there(critique: str, edit: str, problem: str) -> None:
    assert writer_of({"fits?": critique, "mend": edit}).instruction(BEFORE, AFTER, CAPTIONS).problem == problem


@pytest.mark.parametrize(("answer", "problem"), [("Yes, it is.", ""), ("no", DENIED), ("", DENIED), ("yesterday", DENIED)])
def test_instruction_counts_if_a_model_that_sees_both_pictures_confirms_it(answer: str, problem: str) -> None:
    seen: list[tuple[str, int]] = []
    answers = {"fits?": "no", "mend": "make it blue", "is it": answer}

    def ask(question: str, frames: Sequence[Frame]) -> str:
        seen.append((question, len(frames)))
        return next(text for begin, text in answers.items() if question.startswith(begin))

    assert Writer(ask, PAIRED).instruction(BEFORE, AFTER, CAPTIONS).problem == problem
    assert seen[-1] == ("is it make it blue?", 2)


def test_equal_captions_are_no_change_whatever_the_model_says() -> None:
    writer = writer_of({"fits?": "no, it is badly drawn", "mend": "draw it again"})
    assert writer.instruction(BEFORE, AFTER, ("a star", "a star")).problem == NO_CHANGE


def test_caption_that_holds_a_placeholder_stays_as_it_is() -> None:
    asked: list[str] = []
    answers: Callable[[str, Sequence[Frame]], str] = lambda question, frames: asked.append(question) or "no, {prompt}"  # type: ignore[func-returns-value]  # noqa: E731
    Writer(answers, QUESTIONS).instruction(BEFORE, AFTER, ("a", "b"))
    assert asked[-1] == "mend no, {prompt} for b"


@pytest.mark.parametrize(("values", "said"), [({"caption": " "}, "is empty"), ({"pair": "is it right?"}, "{instruction}")])
def test_question_without_what_it_needs_is_refused(values: dict[str, str], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        Questions(reflection=PROMPTS, **values)
