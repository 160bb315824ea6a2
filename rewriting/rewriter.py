"""Rewrites prompts: asks a language model, checks the answer, and keeps the prompt where something is wrong with the answer.

A prompt that comes again is not asked for again. Knows no model: a function writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..evaluation.asking import cut_text
from ..runtime.errors import RequestError
from .objections import cleaned, objection
from .templates import Templates

REMEMBERED = 1000
CUT_OFF = "it did not come to its end"


@dataclass(frozen=True, kw_only=True)
class Written:
    """A model's answer.

    text: the answer.
    problem: the reason why there is none that counts, or None.
    """

    text: str = ""
    problem: str | None = None


Write = Callable[[str], Written]
"""Answers a question in words."""


@dataclass(frozen=True, kw_only=True)
class Rewrite:
    """The outcome of rewriting a prompt.

    prompt: the text to draw: the rewrite, or the original prompt where the rewrite was refused.
    original: the prompt as it was given.
    text: the model's text, refused or not; a refused one is cut to 2,000 characters.
    refused: the reason why the rewrite isn't drawn; None where it is.
    writer: the model's name.
    """

    prompt: str
    original: str
    text: str
    refused: str | None
    writer: str

    @property
    def parameters(self) -> dict[str, Any]:
        """The entry of the drawing's parameters, whose own `prompt` is the text that was drawn."""
        return {"rewrite": {"prompt": self.original, "text": self.text, "refused": self.refused, "writer": self.writer}}

    @property
    def note(self) -> str:
        """A line for people."""
        if self.refused is not None:
            return f"the prompt stays as it is: {self.refused}"
        return f"the prompt was rewritten: {self.prompt}"


class Rewriter:
    """Rewrites prompts. writer: the model's name."""

    def __init__(self, write: Write, writer: str, templates: Templates) -> None:
        self._write = write
        self._writer = writer
        self._templates = templates
        self._known: OrderedDict[tuple[str, int], Rewrite] = OrderedDict()

    def rewrite(self, prompt: str, images: int = 0) -> Rewrite:
        """The rewrite of a prompt with so many input images. Raises as `write` does, but for RequestError: that refuses it."""
        key = prompt, images
        known = self._known.pop(key, None) or self._new(prompt, images)
        self._known[key] = known
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return known

    def _new(self, prompt: str, images: int) -> Rewrite:
        try:
            written = self._write(self._templates.question(prompt, images))
        except RequestError as error:
            written = Written(problem=f"it can't be rewritten: {error}")
        text = cleaned(written.text)
        refused = written.problem or objection(prompt, text)
        if refused is not None:
            refused = refused if written.problem is not None else f"the rewrite was refused, because {refused}"
            refused, text = cut_text(refused), cut_text(text)
        return Rewrite(
            prompt=text if refused is None else prompt, original=prompt, text=text, refused=refused, writer=self._writer
        )
