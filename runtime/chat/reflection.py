"""Reflection: draw, ask the model what is wrong with the picture, correct it, and keep the best.

Over-reflection is a known failure (OmniGen2, arXiv 2506.18871), so a correction that the model itself grades below the picture it
started from ends the work. Draws and asks through functions; knows the bundle's questions.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from ..checks import check_callback, check_integer, check_type
from ..errors import RequestError
from ..manifest import ReflectionPrompts
from ..request import Request, Result, asks_to_stop
from .grades import grade_in, scale_in

MAX_ROUNDS = 1000


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """A picture and the model's judgement of it.

    result: its drawing.
    grade: the model's, higher being better; None if its answer holds none that is certain (`grades.grade_in`).
    critique: what is wrong with it.
    edit: the instruction that the next round's picture follows; empty in the last round.
    """

    result: Result
    grade: float | None
    critique: str = ""
    edit: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reflection:
    """All rounds, the first drawing included, and the index of the best one."""

    rounds: tuple[Round, ...]
    best: int

    @property
    def result(self) -> Result:
        """The best picture's drawing."""
        return self.rounds[self.best].result


Draw = Callable[[Request], Result]
Ask = Callable[[str, Image.Image], str]
"""The model's answer, in words, to a question about a picture."""
OnRound = Callable[[Round], object]
"""Called after each round; returning False ends the reflection."""


def reflect(
    request: Request,
    rounds: int,
    prompts: ReflectionPrompts,
    *,
    draw: Draw,
    ask: Ask,
    on_round: OnRound | None = None,
) -> Reflection:
    """Draw `request` and correct the picture up to `rounds` times.

    Ends when the model finds nothing wrong, when rounds are used up, or when a correction is graded lower. Raises RequestError
    for more than one picture a prompt.
    """
    check_type("request", request, Request, "a Request")
    rounds = check_integer("rounds", rounds, 1, "the fewest", MAX_ROUNDS)
    check_callback("on_round", on_round)
    if request.images_per_prompt != 1:
        raise RequestError(f"images_per_prompt={request.images_per_prompt}; reflection works on one picture at a time")
    finished: list[Round] = []
    next_request = request
    for number in range(rounds + 1):
        result = draw(next_request)
        if not result.images:  # cancelled
            break
        current = Round(result=result, grade=_grade(ask, prompts, request, result))
        is_worse = bool(finished) and _comparable(current) < _comparable(finished[-1])
        if number < rounds and not is_worse:
            current = _criticize(ask, prompts, request, current)
        finished.append(current)
        is_stopped = on_round is not None and asks_to_stop(on_round(current))
        if not current.edit or is_stopped:
            break
        next_request = replace(request, prompt=current.edit, images=(result.images[0],), latents=None)
    if not finished:  # cancelled in the first drawing
        finished.append(Round(result=result, grade=None))
    return Reflection(rounds=tuple(finished), best=best_round(finished))


def best_round(rounds: list[Round]) -> int:
    """The index of the highest grade; of equals the latest, which had the most corrected."""
    return max(range(len(rounds)), key=lambda index: (_comparable(rounds[index]), index))


def _comparable(judged: Round) -> float:
    return -1.0 if judged.grade is None else judged.grade


def _grade(ask: Ask, prompts: ReflectionPrompts, request: Request, result: Result) -> float | None:
    return grade_in(ask(_filled(prompts.judge, request.prompt), result.images[0]), scale_in(prompts.judge))


def _criticize(ask: Ask, prompts: ReflectionPrompts, request: Request, judged: Round) -> Round:
    """The round with its critique and, if that finds something wrong, the edit that corrects it."""
    picture = judged.result.images[0]
    critique = ask(_filled(prompts.critique, request.prompt), picture)
    if not critique or finds_nothing(critique, prompts.content):
        return replace(judged, critique=critique)
    return replace(judged, critique=critique, edit=ask(_filled(prompts.edit, request.prompt, critique), picture))


def finds_nothing(critique: str, content: str) -> bool:
    """Whether a critique begins with the word for a picture that is right, alone or before a comma or a full stop.

    "**Nothing.**" does; "Nothing matches the request" finds something.
    """
    word = rf"\W*{re.escape(content.strip(string.punctuation))}"
    return re.match(rf"{word}(?:\W*\Z|\W*[.,;:!\n]|\s+(?:is\s+|else\s+)*wrong\b)", critique, re.IGNORECASE) is not None


def _filled(template: str, prompt: str, critique: str = "") -> str:
    """The template with its placeholders filled at once: a critique that holds "{prompt}" keeps it."""
    texts = {"{prompt}": prompt, "{critique}": critique}
    return re.sub(r"\{(?:prompt|critique)\}", lambda found: texts[found[0]], template)
