"""`generate --best-of`: several seeds, a judge behind an endpoint, and the files of all candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import OmniGen2Error, RequestError, one_line
from ..runtime.request import Request, Result
from .endpoint_options import endpoint_client, note
from .option_values import picture_names

if TYPE_CHECKING:
    from ..evaluation.best_of import BestOf, Judge

DrawOne = Callable[[Request, str], Result]
"""Draws a request; the text says what is drawn, for the line of progress."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The choice among several seeds.

    count: the number of candidates.
    judge: scores a picture.
    out: the best picture's file.
    names: the candidates' files.
    """

    count: int
    judge: Judge
    out: Path
    names: tuple[Path, ...]

    def draw(self, request: Request, draw: DrawOne) -> BestOf:
        """Draw and judge all candidates."""
        from ..evaluation.best_of import draw_best

        def drawn(each: Request) -> Result:
            return draw(each, f"drawing {each.seed - request.seed + 1} of {self.count}")

        return draw_best(request, self.count, drawn, self.judge)

    def save(self, done: BestOf, parameters: Mapping[str, Any], say: Callable[[str], object]) -> None:
        """Save all candidates, and the best one as `out`. Raises OmniGen2Error, once they are saved, where no score came."""
        from .output import Picture, save_all

        pictures = [
            Picture(image=each.result.images[0], parameters={**parameters, "seed": each.seed, "index": 0, **done.parameters})
            for each in done.candidates
        ]
        files = list(zip(pictures, self.names, strict=False))
        save_all([*files, *([] if done.best is None else [(pictures[done.best], self.out)])], lambda name: say(str(name)))
        problems = [each.judgement.problem for each in done.candidates if each.judgement.score is None]
        if done.best is None:
            kept = f"the pictures are kept in {str(self.names[0])!r} to {str(self.names[len(pictures) - 1])!r}"
            raise OmniGen2Error(f"the judge scored none of {len(pictures)} pictures ({problems[0]}); {kept}")
        if problems:
            note(f"the judge did not score {len(problems)} of {len(pictures)} pictures: {problems[0]}")
        if len(pictures) < self.count:
            note(f"{self.count - len(pictures)} pictures were not drawn, because the judge would answer nothing")
        best = done.candidates[done.best]
        note(f"seed {best.seed} is the best, with {best.judgement.score:g} of 10: {one_line(best.judgement.reason, 200)}")


def best_of_choice(
    count: int | None,
    url: str | None,
    model: str | None,
    key_variable: str,
    rubric: Path | None,
    request: Request,
    out: Path,
) -> Choice | None:
    """The choice that the options ask for, or None. Raises RequestError, before anything is drawn, for what can't work."""
    if count is None:
        if (url, model, rubric) != (None, None, None):
            raise RequestError("--judge, --judge-model and --rubric belong to --best-of N")
        return None
    client = endpoint_client("--judge", url, model, key_variable)
    if client is None:
        raise RequestError("--best-of needs --judge URL and --judge-model NAME: the endpoint that chooses")
    from ..evaluation.best_of import SCORE, check_best_of, picture_judge
    from ..evaluation.rubrics import read_rubrics, shipped_rubrics

    check_best_of(request, count)
    rubrics = shipped_rubrics("best_of", (SCORE,)) if rubric is None else read_rubrics(rubric, (SCORE,))
    names = picture_names(out, count)
    return Choice(count=count, judge=picture_judge(client, rubrics, request), out=out, names=tuple(names))
