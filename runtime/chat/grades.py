"""The grade in a judge's answer. A number is taken only where it can be nothing else; in doubt there is no grade."""

from __future__ import annotations

import re
from typing import NamedTuple

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_START = r"(?<![\w.,+−-])"
_NUMBER = rf"{_START}([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)(?![\w%]|[.,][0-9])"
_REMARK = r"(?:\s*\([^()\n]*\))?"  # "from 0 (not at all) to 10"
_RANGE = rf"{_NUMBER}{_REMARK}\s*(?:to|and|-|–|—)\s*([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)(?![\w%]|[.,][0-9])"
_CLAUSE_END = r"(?=\s*(?:$|[.,;!?)\n]|(?:points?|because|since|as|but)\b))"
_FILLER = r"(?:about|around|roughly|maybe|an?|it's|it|is|this|the|answer|picture|image|drawing|of|at|as|would|be|solid)"

_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)
_MARKUP = re.compile(r"[*_`#]")
_SCALE = re.compile(rf"\b(?:from|between|scale of)\s+{_RANGE}", re.IGNORECASE)
_OTHER_RANGE = re.compile(_RANGE, re.IGNORECASE)
_SCALE_END = re.compile(rf"\bscale of\s+{_NUMBER}", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"^[ \t]*\(?[0-9]+[.):][ \t]+(?=\S)", re.MULTILINE)
_OUT_OF = re.compile(rf"{_NUMBER}\s*(?:/|(?:out )?of)\s*([0-9]{{1,9}}(?:\.[0-9]{{1,9}})?)(?![\w%]|[.,][0-9])", re.IGNORECASE)
_GRADED = re.compile(
    r"\b(?:grade|score|scale|rate|rating|mark|give|assign|award|deserve|earn|get)(?:s|d|n)?\b"
    rf"\W{{0,8}}(?:{_FILLER}\s+|grade\s+|score\s+|rating\s+){{0,6}}{_NUMBER}{_CLAUSE_END}",
    re.IGNORECASE,
)
_ALONE = re.compile(rf"\W*(?:{_FILLER}\W+)*{_NUMBER}(?:\s+points?)?\W*", re.IGNORECASE)


class Scale(NamedTuple):
    """The lowest and the highest grade."""

    lowest: float
    highest: float


def scale_in(question: str) -> Scale | None:
    """The scale that a judge's question names, as in "from 0 (bad) to 10 (good)", "between 1 and 5", "0-10"; None without one."""
    named = _SCALE.search(question) or _OTHER_RANGE.search(question)
    return Scale(*sorted(map(float, named.groups()))) if named else None


def grade_in(answer: str, scale: Scale | None = None) -> float | None:
    """The grade that an answer gives on the question's scale, or None.

    A grade is a number, or a word from zero to ten, that
    - stands before the scale's highest: "8/10", "8 out of 10", "8 of 10",
    - follows a word that announces it and ends its clause: "Grade: 9", "a score of 7.5", "I'd give it an 8 because …",
    - or is all that the answer holds: "8", "About 8.", "ten points".

    No grade is
    - a bound of a scale ("from 0 to 10") or of a range ("7-8"),
    - the number of a list's line ("1. …"),
    - a part of another whole ("3/4") or a percentage,
    - any other number ("3 birds").
    An answer that gives several grades that differ, one beyond the scale, or one on another scale than the question's gives none.
    """
    text = _WORD.sub(lambda word: str(_WORDS.index(word[0].lower())), _MARKUP.sub("", answer))
    highest = scale.highest if scale else None
    scales = [match[2] for match in _SCALE.finditer(text)] + [match[1] for match in _SCALE_END.finditer(_SCALE.sub(" ", text))]
    if highest is not None and any(float(end) != highest for end in scales):
        return None
    for pattern in (_SCALE, _SCALE_END):
        text = pattern.sub("scale", text)
    for pattern in (_LIST_NUMBER, _OTHER_RANGE):
        text = pattern.sub(" ", text)
    grades = {float(part) for part, whole in _OUT_OF.findall(text) if highest in (None, float(whole))}
    text = _OUT_OF.sub(" ", text)
    grades |= {float(number) for number in _GRADED.findall(text)}
    if alone := _ALONE.fullmatch(text):
        grades.add(float(alone[1]))
    grade = grades.pop() if len(grades) == 1 else None
    is_on_scale = grade is not None and (scale is None or scale.lowest <= grade <= scale.highest)
    return grade if is_on_scale else None
