"""Plain questions to a model behind an endpoint, answered in words: by a judge of reflection, a writer or a rewriter.

Knows the client of an endpoint, and not what the answers mean.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image

from ..runtime.manifest import ReflectionPrompts
from .answer_cache import Asker
from .endpoint import Answer, EndpointError, Question, QuestionRefused, jpeg_bytes

MAX_TOKENS = 1024
"""Room for the thoughts of models that think before they answer."""

MAX_STORED = 2000
"""Characters of a refused answer, or of a reason, that are stored."""

_THOUGHTS = re.compile(r"\A(?:.*</think(?:ing)?\s*>|\s*<think(?:ing)?\s*>.*)", re.DOTALL | re.IGNORECASE)
"""Thoughts to their end, whose beginning some servers leave out; or thoughts that never end."""

REFLECTION_QUESTIONS = ReflectionPrompts(
    critique=(
        "The picture was generated for this request: {prompt}\nCompare it with the request: the things asked for, their number, "
        "colours, shapes, sizes and places, texts, and the background. Say in one or two sentences what is wrong. "
        "If nothing is, answer only with the word: nothing"
    ),
    edit=(
        "The picture was generated for this request: {prompt}\nThis is wrong with it: {critique}\nWrite the instruction that "
        "tells an image editor to correct it, in one sentence. Answer only with the instruction."
    ),
    judge=(
        "The picture was generated for this request: {prompt}\nGrade how well it fulfils the request and how well it is drawn, "
        "on a scale from 0 (useless) to 10 (perfect). Answer only with the number."
    ),
    content="nothing",
)
"""The questions of reflection for a model that was not trained on the bundle's own."""


def answer_in_words(asker: Asker, text: str, pictures: Sequence[Image.Image] = (), max_tokens: int = MAX_TOKENS) -> Answer:
    """The answer to a question about pictures; its text is "" where it was refused or cut off. Raises EndpointError."""
    try:
        answer = asker.ask(Question(parts=(text, *map(jpeg_bytes, pictures)), max_tokens=max_tokens))
    except QuestionRefused as error:
        return Answer(text="", refusal=str(error))
    return replace(answer, text="" if answer.refusal or answer.is_cut_off else without_thoughts(answer.text))


def no_answer_reason(answer: Answer) -> str:
    """The reason why an answer of `answer_in_words` has no text."""
    if answer.refusal:
        return cut_text(answer.refusal)
    return "its answer was cut off" if answer.is_cut_off else "its answer was empty"


def cut_text(text: str) -> str:
    """The text, cut to MAX_STORED characters: an answer that nobody drew from is not stored whole."""
    return text if len(text) <= MAX_STORED else f"{text[: MAX_STORED - 1]}…"


def without_thoughts(text: str) -> str:
    """The text without the thoughts that some servers leave in front of an answer: everything up to </think> or </thinking>."""
    return _THOUGHTS.sub("", text).strip()


class OutsideJudge:
    """Answers the questions of a reflection about a picture.

    An endpoint that fails ends the reflection instead of losing its pictures: from then on every answer is empty.

    model: the model's name as the endpoint reported it.
    failure: the error of the endpoint, or None.
    """

    def __init__(self, asker: Asker, model: str) -> None:
        self._asker = asker
        self.model = model
        self.failure: EndpointError | None = None

    def ask(self, question: str, picture: Image.Image) -> str:
        """The answer, or "" where there is none."""
        if self.failure is not None:
            return ""
        try:
            answer = answer_in_words(self._asker, question, [picture])
        except EndpointError as error:
            self.failure = error
            return ""
        self.model = answer.model or self.model
        return cut_text(answer.text)
