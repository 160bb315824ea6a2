"""Reflection: draw, look at the picture, say what is wrong with it, correct it, and keep the best.

Over-reflection is a known failure (OmniGen2, arXiv 2506.18871), so a correction that the model itself grades below the
picture it started from ends the work. Knows the bundle's questions, and asks the pipeline to draw and to talk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from ..denoiser import OnStep
from ..errors import RequestError
from ..images.loading import ImageSource
from ..manifest import ReflectionPrompts
from ..request import Request, Result
from .conversation import Chat

_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, kw_only=True, eq=False)
class Round:
    """A picture and what the model said of it.

    result: its drawing. grade: the model's, higher being better; None if it gave no number. critique: what is wrong;
    edit: the instruction that the next round's picture was made with, or empty in the last round.
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


class Studio(Protocol):
    """What reflection needs of the pipeline."""

    def generate(self, request: Request, on_step: OnStep | None = None) -> Result:
        """Draw."""

    def start_chat(self) -> Chat:
        """Talk."""


OnRound = Callable[[Round], object]


def reflect(
    studio: Studio,
    prompts: ReflectionPrompts,
    request: Request,
    rounds: int,
    on_step: OnStep | None = None,
    on_round: OnRound | None = None,
) -> Reflection:
    """Draw `request` and correct the picture up to `rounds` times. on_round, on_step: returning False stops.

    Ends when the model finds nothing wrong, when rounds are used up, or when a correction made it worse. Raises
    RequestError for more than one picture a prompt.
    """
    if rounds < 1:
        raise RequestError(f"rounds={rounds} is below the fewest, 1")
    if request.images_per_prompt != 1:
        raise RequestError(f"images_per_prompt={request.images_per_prompt}; reflection works on one picture at a time")
    done: list[Round] = []
    wanted = request
    for number in range(rounds + 1):
        result = studio.generate(wanted, on_step)
        if not result.images:  # cancelled
            break
        current = _judge(studio, prompts, request, result)
        worse = bool(done) and _grade(current) < _grade(done[-1])
        if number < rounds and not worse:
            current = _correct(studio, prompts, request, current)
        done.append(current)
        going_on = on_round is None or on_round(current) is not False
        if not current.edit or not going_on:
            break
        wanted = replace(request, prompt=current.edit, images=(result.images[0],), latents=None)
    if not done:  # cancelled in the first drawing: what there is
        done.append(Round(result=result, grade=None))
    return Reflection(rounds=tuple(done), best=best_of(done))


def best_of(rounds: list[Round]) -> int:
    """The index of the highest grade. Of equals the latest, which had the most corrected; without grades the last."""
    return max(range(len(rounds)), key=lambda index: (_grade(rounds[index]), index))


def grade_in(text: str) -> float | None:
    """The first number in an answer, or None."""
    found = _NUMBER.search(text)
    return float(found.group()) if found else None


def _grade(judged: Round) -> float:
    return -1.0 if judged.grade is None else judged.grade


def _judge(studio: Studio, prompts: ReflectionPrompts, request: Request, result: Result) -> Round:
    answer = _ask(studio, _filled(prompts.judge, request.prompt), result.images[0])
    return Round(result=result, grade=grade_in(answer))


def _correct(studio: Studio, prompts: ReflectionPrompts, request: Request, judged: Round) -> Round:
    """The round with its critique and, where that isn't content, the edit that follows from it."""
    picture = judged.result.images[0]
    critique = _ask(studio, _filled(prompts.critique, request.prompt), picture)
    if not critique or critique.lower().startswith(prompts.content.lower()):
        return replace(judged, critique=critique)
    return replace(judged, critique=critique, edit=_ask(studio, _filled(prompts.edit, request.prompt, critique), picture))


def _filled(template: str, prompt: str, critique: str = "") -> str:
    return template.replace("{critique}", critique).replace("{prompt}", prompt)


def _ask(studio: Studio, question: str, picture: ImageSource) -> str:
    return studio.start_chat().ask(question, [picture], may_draw=False).text.strip()
