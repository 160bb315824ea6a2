"""Captions of frames, and instructions that turn one into another: written by a language model, and checked by it and in code.

A caption counts if the model, asked whether the frame fits it, finds nothing wrong. An instruction comes from the two questions
of reflection: what is wrong with the first frame if the second one's caption was asked for, and which edit corrects it. It counts
if the captions or the critique name all numbers and colours that it names, and if a model that can compare two pictures confirms
it. Knows no model: a function answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..rewriting.named_words import named_meanings
from ..runtime.chat.reflection import finds_nothing
from ..runtime.errors import RequestError
from ..runtime.manifest import ReflectionPrompts
from .frames import Frame


class Unanswered(Exception):
    """The model refused a question, or its answer was cut off or empty. Later the same question may be answered."""


AskFrames = Callable[[str, Sequence[Frame]], str]
"""The model's answer, in words, to a question about frames. Raises Unanswered where none came."""

CAPTION_QUESTION = "describe the picture"
PAIR_QUESTION = (
    "The second picture was made from the first one. Is this instruction what was changed: {instruction}\n"
    "Answer only yes or no."
)
LONGEST_TEXT = 2000
"""Characters of a caption or an instruction: a model that rambles is no writer."""

UNANSWERED = "the writer did not answer"
NO_CAPTION = "no caption was written"
DOUBTED = "the caption was doubted"
NO_CHANGE = "pair without a difference that words tell"
NO_INSTRUCTION = "no instruction was written"
UNFOUNDED = "the instruction names what neither caption does"
DENIED = "the instruction was denied"


@dataclass(frozen=True, kw_only=True)
class Questions:
    """The questions. Raises RequestError for one without its placeholder.

    caption: asks for a caption.
    reflection: the questions of reflection, see the manifest's `ReflectionPrompts`.
    pair: asks whether `{instruction}` turns the first picture into the second; "" for a model that can't compare two pictures.
    """

    caption: str = CAPTION_QUESTION
    reflection: ReflectionPrompts
    pair: str = ""

    def __post_init__(self) -> None:
        if not self.caption.strip():
            raise RequestError("the question for a caption is empty")
        if self.pair and "{instruction}" not in self.pair:
            raise RequestError("the question about a pair does not hold {instruction}")


@dataclass(frozen=True, kw_only=True)
class Text:
    """A caption or an instruction.

    text: the model's text.
    problem: the reason why it doesn't count, or "".
    detail: the particulars of this case.
    """

    text: str
    problem: str = ""
    detail: str = ""


class Writer:
    """Writes and checks captions and instructions. Where a question is not answered, there is no text."""

    def __init__(self, ask: AskFrames, questions: Questions) -> None:
        self._ask = ask
        self._questions = questions

    def caption(self, frame: Frame) -> Text:
        """A caption of a frame. Raises as `ask` does, but for Unanswered."""
        return _answered(lambda: self._caption(frame))

    def instruction(self, before: Frame, after: Frame, captions: tuple[str, str]) -> Text:
        """The instruction that turns `before` into `after`. captions: of both. Raises as `ask` does, but for Unanswered."""
        return _answered(lambda: self._instruction(before, after, captions))

    def _caption(self, frame: Frame) -> Text:
        text = self._ask(self._questions.caption, [frame]).strip()
        if not text or len(text) > LONGEST_TEXT:
            return Text(text="", problem=NO_CAPTION, detail=_size(text))
        critique = self._critique(frame, text)
        return Text(text=text) if self._is_content(critique) else Text(text=text, problem=DOUBTED, detail=critique)

    def _instruction(self, before: Frame, after: Frame, captions: tuple[str, str]) -> Text:
        critique = self._critique(before, captions[1])
        if self._is_content(critique) or captions[0] == captions[1]:
            return Text(text="", problem=NO_CHANGE)
        question = _filled(self._questions.reflection.edit, prompt=captions[1], critique=critique)
        text = self._ask(question, [before]).strip()
        if not text or len(text) > LONGEST_TEXT:
            return Text(text="", problem=NO_INSTRUCTION, detail=_size(text))
        unfounded = named_meanings(text) - named_meanings(" ".join([*captions, critique]))
        if unfounded:
            return Text(text=text, problem=UNFOUNDED, detail=min(unfounded))
        if self._questions.pair:
            answer = self._ask(_filled(self._questions.pair, instruction=text), [before, after]).strip()
            if not re.match(r"\W*yes\b", answer, re.IGNORECASE):
                return Text(text=text, problem=DENIED, detail=answer)
        return Text(text=text)

    def _critique(self, frame: Frame, caption: str) -> str:
        return self._ask(_filled(self._questions.reflection.critique, prompt=caption), [frame]).strip()

    def _is_content(self, critique: str) -> bool:
        return finds_nothing(critique, self._questions.reflection.content)


def _answered(write: Callable[[], Text]) -> Text:
    try:
        return write()
    except Unanswered as error:
        return Text(text="", problem=UNANSWERED, detail=str(error))


def _filled(template: str, **texts: str) -> str:
    """The template with its placeholders filled at once: a text that holds "{prompt}" keeps it."""
    return re.sub(r"\{(\w+)\}", lambda found: texts.get(found[1], found[0]), template)


def _size(text: str) -> str:
    return f"{len(text)} characters" if text else ""
