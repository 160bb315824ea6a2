"""Rubrics: a judge's instructions, and the form in which it answers. Some ship, in `texts/`; a file of the user replaces them.

Knows no benchmark and reads no answers.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import RequestError, shown
from ..runtime.files.json_text import json_hash, parse_object
from ..runtime.files.reading import read_bytes

SHIPPED = Path(__file__).parent / "texts"
MAX_RUBRIC_BYTES = 2**20
PLACEHOLDERS = ("{instruction}", "<instruction>", "<edit_prompt>")
"""Spellings of the place where the sample's instruction stands."""
FORMS = ("object", "list", "lines")
_KEYS = {"text", "scores", "form", "needs_instruction"}


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """The instruction of a judge for one grade, or for several that it gives together.

    text: with the instruction's placeholder.
    scores: the names of the grades.
    form: of the answer. "object": a JSON object with a number for each grade, and "reasoning". "list": {"score": [numbers],
        "reasoning"}. "lines": lines of text that end in a colon and a number, one for each grade.
    """

    text: str
    scores: tuple[str, ...]
    form: str = "object"

    def prompt(self, instruction: str, lowest: int, highest: int) -> str:
        """The text for a sample; with form "object" it ends with the form of the answer."""
        text = self.text.strip()
        for placeholder in PLACEHOLDERS:
            head, found, rest = text.partition(placeholder)
            text = f"{head}{instruction}{rest}" if found else text
            if found:
                break
        return text if self.form != "object" else f"{text}\n\n{self._form_sentence(lowest, highest)}"

    def _form_sentence(self, lowest: int, highest: int) -> str:
        grades = ", ".join(f'"{name}": N' for name in self.scores)
        form = f'{{"reasoning": "one to three sentences", {grades}}}'
        return f"Answer with one JSON object and nothing else: {form}. Each N is a number from {lowest} to {highest}."

    @property
    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of the answer; None for lines of text."""
        if self.form == "lines":
            return None
        numbers: dict[str, Any] = {name: {"type": "number"} for name in self.scores}
        if self.form == "list":
            numbers = {"score": {"type": "array", "items": {"type": "number"}}}
        properties = {"reasoning": {"type": "string"}, **numbers}
        return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


Rubrics = Mapping[str, Rubric]
"""By section."""


def rubrics_hash(rubrics: Rubrics) -> str:
    """SHA-256 of all rubrics of a judge, hexadecimal: scores of different ones are not comparable."""
    facts = {name: [rubric.text, rubric.scores, rubric.form] for name, rubric in rubrics.items()}
    return json_hash(facts)


def shipped_rubrics(benchmark: str, scores: tuple[str, ...]) -> Rubrics:
    """The rubrics that ship for a benchmark. scores: the grades of sections that name none."""
    return read_rubrics(SHIPPED / f"{benchmark}.toml", scores)


def read_rubrics(path: Path, scores: tuple[str, ...], text_form: str = "object") -> Rubrics:
    """The rubrics of a file: TOML, or JSON where it ends in .json. Each section is a table, or a text.

    scores: the grades of sections that name none. text_form: the form of sections that are a text. Raises RequestError.
    """
    try:
        content = read_bytes(path, MAX_RUBRIC_BYTES)
        sections = parse_object(content) if path.suffix.lower() == ".json" else tomllib.loads(content.decode())
    except OSError as error:
        raise RequestError(f"the rubric {str(path)!r} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise RequestError(f"the rubric {str(path)!r} can't be read: {error}") from error
    if not sections:
        raise RequestError(f"the rubric {str(path)!r} is empty")
    where = f"the rubric {str(path)!r}:"
    return {name: _rubric(value, f"{where} {shown(name)}", scores, text_form) for name, value in sections.items()}


def _rubric(value: Any, where: str, scores: tuple[str, ...], text_form: str) -> Rubric:
    section = {"text": value, "form": text_form} if isinstance(value, str) else value
    if not isinstance(section, dict) or not isinstance(section.get("text"), str) or section.keys() - _KEYS:
        raise RequestError(f"{where} must be a text, or a table with text and perhaps {', '.join(sorted(_KEYS - {'text'}))}")
    names, form, needs = section.get("scores", [*scores]), section.get("form", "object"), section.get("needs_instruction", True)
    if form not in FORMS:
        raise RequestError(f"{where}: form={shown(form)} is unknown; choose one of {', '.join(FORMS)}")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise RequestError(f"{where}: scores must be a list of names")
    if needs and not any(placeholder in section["text"] for placeholder in PLACEHOLDERS):
        raise RequestError(f"{where} lacks the place of the instruction: write {PLACEHOLDERS[0]}, or needs_instruction = false")
    return Rubric(text=section["text"], scores=tuple(names), form=form)
