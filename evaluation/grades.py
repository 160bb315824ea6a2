"""Grades read from a judge's answer, strictly: an answer that isn't in its form gives no grades, and nothing is guessed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..runtime.errors import one_line, shown
from ..runtime.files.json_text import parse_object
from .endpoint import Answer
from .rubrics import Rubric

_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*)\n[ \t]*```", re.DOTALL | re.IGNORECASE)
_LINE = re.compile(r"[^:\n]{1,80}:\s*\**\s*([0-9]{1,3})\**(?:\s*/\s*([0-9]{1,3}))?\**\s*")


@dataclass(frozen=True, kw_only=True)
class Grades:
    """The content of an answer.

    scores: the grades by name; empty where the answer can't be read.
    reason: the judge's reason.
    problem: why it can't be read; None where it can.
    """

    scores: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    problem: str | None = None


def read_grades(answer: Answer, rubric: Rubric, lowest: int, highest: int) -> Grades:
    """The grades of an answer; none, and the problem, for an answer of any other form, or with a grade out of range."""
    if answer.refusal:
        return Grades(problem="the judge refused", reason=answer.refusal)
    if answer.is_cut_off:
        return Grades(problem="the answer was cut off at the limit of tokens", reason=answer.text)
    try:
        values, reason = _lines(answer.text, rubric, highest) if rubric.form == "lines" else _json(answer.text, rubric)
        return Grades(scores={name: _number(value, lowest, highest) for name, value in values.items()}, reason=reason)
    except ValueError as error:
        return Grades(problem=one_line(f"the answer {error}", 160), reason=answer.text)


def _json(text: str, rubric: Rubric) -> tuple[dict[str, Any], str]:
    """The values by grade and the reason of a JSON answer, which may stand between fences. Raises ValueError."""
    fenced = _FENCE.fullmatch(text.strip())
    data = parse_object(fenced[1] if fenced else text)
    names = ("score",) if rubric.form == "list" else rubric.scores
    if {*data} != {*names, "reasoning"}:
        raise ValueError(f"has the keys {', '.join(map(repr, data)) or 'none'}; allowed are {', '.join((*names, 'reasoning'))}")
    reason = data["reasoning"]
    if not isinstance(reason, str):
        raise ValueError(f"has the reasoning {shown(reason)}, not a text")
    if rubric.form == "object":
        return {name: data[name] for name in names}, reason
    values = data["score"]
    if not isinstance(values, list) or len(values) != len(rubric.scores):
        raise ValueError(f"has the score {shown(values)}, not a list of {len(rubric.scores)} numbers")
    return dict(zip(rubric.scores, values, strict=True)), reason


def _lines(text: str, rubric: Rubric, highest: int) -> tuple[dict[str, Any], str]:
    """The values by grade of an answer in lines, and its other lines. Raises ValueError."""
    lines = [line.strip() for line in text.splitlines()]
    matches = [match for line in lines if (match := _LINE.fullmatch(line))]
    if len(matches) != len(rubric.scores):
        raise ValueError(f"has {len(matches)} lines with a grade; allowed is {len(rubric.scores)}")
    scales = [match[2] for match in matches if match[2] is not None and int(match[2]) != highest]
    if scales:
        raise ValueError(f"has a grade out of {scales[0]}; allowed is out of {highest}")
    numbers = [int(match[1]) for match in matches]
    return dict(zip(rubric.scores, numbers, strict=True)), "\n".join(line for line in lines if line and not _LINE.fullmatch(line))


def _number(value: Any, lowest: int, highest: int) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"has the grade {shown(value)}, not a number")
    if not lowest <= value <= highest:
        raise ValueError(f"has the grade {shown(value)}; allowed is {lowest} to {highest}")
    number: float = value
    return number
