"""Draws a request with several seeds and keeps the picture that a judge likes best.

An answer that can't be read is a missing score, never a guess. Knows no endpoint: one function draws, another one judges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..runtime.checks import check_integer
from ..runtime.errors import RequestError
from ..runtime.images.loading import load_images
from ..runtime.request import Request, Result
from .answer_cache import Asker
from .asking import cut_text
from .endpoint import EndpointError, EndpointUnusable, Question, jpeg_bytes
from .grades import read_grades
from .rubrics import Rubric, Rubrics

MOST_CANDIDATES = 100
LOWEST, HIGHEST = 0, 10
SCORE = "score"
DRAW, EDIT = "draw", "edit"
"""The sections of the rubric: for requests without and with input images."""
MAX_TOKENS = 4096
"""Room for the thoughts of models that think before they answer."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A judgement of one picture.

    score: 0 to 10; None where it is missing.
    reason: the judge's words, at most 2,000 characters.
    problem: the reason why the score is missing, or None.
    model: the model's name as the endpoint reported it.
    """

    score: float | None
    reason: str = ""
    problem: str | None = None
    model: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A picture and its judgement. seed: of its noise."""

    seed: int
    result: Result
    judgement: Judgement


@dataclass(frozen=True, kw_only=True, eq=False)
class BestOf:
    """All candidates, and the index of the best one; None where no score came."""

    candidates: tuple[Candidate, ...]
    best: int | None

    @property
    def parameters(self) -> dict[str, Any]:
        """The entry of the drawing's parameters: every candidate's score and reason."""
        facts = [
            {
                "seed": each.seed,
                "score": each.judgement.score,
                "reason": each.judgement.reason,
                "problem": each.judgement.problem,
                "best": number == self.best,
            }
            for number, each in enumerate(self.candidates)
        ]
        models = {each.judgement.model for each in self.candidates if each.judgement.model}
        return {"best_of": {"judge": ", ".join(sorted(models)), "candidates": facts}}


Draw = Callable[[Request], Result]
OnCandidate = Callable[[BestOf], object]
"""Called after each judgement with all candidates so far."""
Judge = Callable[[Image.Image], Judgement]
"""Raises EndpointUnusable where no picture will be judged, and EndpointError where this one could not be."""


def check_best_of(request: Request, count: int) -> None:
    """Raises RequestError for a request that has no seeds to choose from."""
    check_integer("best_of", count, 2, "the fewest", MOST_CANDIDATES)
    if request.images_per_prompt != 1:
        raise RequestError(f"images_per_prompt={request.images_per_prompt}; the best of several seeds is one picture")
    if request.latents is not None:
        raise RequestError("the best of several seeds can't start from given latents: leave them out")
    if request.seed + count > 2**64:
        raise RequestError(f"seed={request.seed} leaves no room for {count} seeds; the last one would be above 2**64 - 1")


def draw_best(
    request: Request, count: int, draw: Draw, judge: Judge, on_candidate: OnCandidate = lambda so_far: None
) -> BestOf:
    """Draw the seeds from the request's on, judge each picture, and find the best; of equals the first.

    A drawing that is cancelled, and a judge that will answer nothing, end it: what was drawn until then is kept. Raises as
    `check_best_of`, `draw` and `on_candidate` do; the candidates until then were given to `on_candidate`.
    """
    check_best_of(request, count)
    candidates = list[Candidate]()
    for seed in range(request.seed, request.seed + count):
        result = draw(replace(request, seed=seed))
        if not result.images:
            break
        judgement, goes_on = _judged(judge, result.images[0])
        candidates.append(Candidate(seed=seed, result=result, judgement=judgement))
        on_candidate(BestOf(candidates=tuple(candidates), best=_best(candidates)))
        if not goes_on:
            break
    return BestOf(candidates=tuple(candidates), best=_best(candidates))


def _judged(judge: Judge, image: Image.Image) -> tuple[Judgement, bool]:
    """The judgement, and whether the judge may answer again."""
    try:
        return judge(image), True
    except EndpointError as error:
        return Judgement(score=None, problem=str(error)), not isinstance(error, EndpointUnusable)


def _best(candidates: list[Candidate]) -> int | None:
    scores = {number: each.judgement.score for number, each in enumerate(candidates) if each.judgement.score is not None}
    return max(scores, key=lambda number: (scores[number], -number), default=None)


def picture_judge(asker: Asker, rubrics: Rubrics, request: Request) -> Judge:
    """A judge of the pictures of a request, which sees its input images. Raises RequestError for a rubric without its section."""
    section = EDIT if request.images else DRAW
    if section not in rubrics:
        raise RequestError(f"the rubric has no section {section!r}; it has {', '.join(map(repr, rubrics))}")
    rubric: Rubric = rubrics[section]
    inputs = [jpeg_bytes(image) for image in load_images("images", request.images)]
    text = rubric.prompt(request.prompt, LOWEST, HIGHEST)

    def judge(image: Image.Image) -> Judgement:
        question = Question(parts=(text, *inputs, jpeg_bytes(image)), schema=rubric.schema, max_tokens=MAX_TOKENS)
        answer = asker.ask(question)
        grades = read_grades(answer, rubric, LOWEST, HIGHEST)
        score = None if grades.problem is not None else min(grades.scores.values())
        return Judgement(score=score, reason=cut_text(grades.reason), problem=grades.problem, model=answer.model)

    return judge
