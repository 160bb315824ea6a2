"""`generate --best-of`: several seeds, a judge behind an endpoint, and the files of all candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.errors import OmniGen2Error, RequestError, one_line
from ..runtime.request import Request, Result
from .endpoint_options import endpoint_client
from .option_values import picture_names
from .output import Picture, save_all
from .terminal import note

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

    def run(self, request: Request, draw: DrawOne, parameters: Mapping[str, Any], say: Callable[[str], object]) -> None:
        """Draw and judge the candidates, save each as soon as it is judged, and the best one as `out` at the end.

        The candidates that were judged are kept whatever ends it early, Ctrl-C included. Raises OmniGen2Error where no score
        came, and as `draw` does.
        """
        from ..evaluation.best_of import BestOf, draw_best

        so_far = BestOf(candidates=(), best=None)

        def drawn(each: Request) -> Result:
            return draw(each, f"drawing {each.seed - request.seed + 1} of {self.count}")

        def judged(done: BestOf) -> None:
            nonlocal so_far
            self._save(done, parameters, len(done.candidates) - 1, say)
            so_far = done

        try:
            draw_best(request, self.count, drawn, self.judge, judged)
        except BaseException:
            self._end(so_far, parameters, say)
            raise
        self._end(so_far, parameters, say)
        if so_far.best is None:
            problem = so_far.candidates[0].judgement.problem if so_far.candidates else "nothing was drawn"
            raise OmniGen2Error(f"the judge scored none of {len(so_far.candidates)} pictures ({problem}); {self._kept(so_far)}")

    def _save(self, done: BestOf, parameters: Mapping[str, Any], number: int, say: Callable[[str], object]) -> None:
        save_all([(self._picture(done, parameters, number), self.names[number])], lambda name: say(str(name)))

    def _picture(self, done: BestOf, parameters: Mapping[str, Any], number: int) -> Picture:
        each = done.candidates[number]
        return Picture(image=each.result.images[0], parameters={**parameters, "seed": each.seed, "index": 0, **done.parameters})

    def _end(self, done: BestOf, parameters: Mapping[str, Any], say: Callable[[str], object]) -> None:
        """Save the best one and note how far it came; each candidate's file now tells of all of them."""
        pictures = [self._picture(done, parameters, number) for number in range(len(done.candidates))]
        save_all(zip(pictures, self.names, strict=False))
        if done.best is not None:
            save_all([(pictures[done.best], self.out)], lambda name: say(str(name)))
        problems = [each.judgement.problem for each in done.candidates if each.judgement.score is None]
        if problems and done.best is not None:
            note(f"the judge did not score {len(problems)} of {len(pictures)} pictures: {problems[0]}")
        if len(pictures) < self.count:
            note(f"it ended early: {len(pictures)} of {self.count} pictures were drawn and judged; {self._kept(done)}")
        self._note_earlier(done)
        if done.best is not None:
            best = done.candidates[done.best]
            note(f"seed {best.seed} is the best, with {best.judgement.score:g} of 10: {one_line(best.judgement.reason, 200)}")

    def _kept(self, done: BestOf) -> str:
        """The files that are kept, in words."""
        count = len(done.candidates)
        return f"the pictures are kept in {str(self.names[0])!r} to {str(self.names[count - 1])!r}" if count else "none is kept"

    def _note_earlier(self, done: BestOf) -> None:
        """Note each file of an earlier run that this one did not replace."""
        for name in (*([self.out] if done.best is None else []), *self.names[len(done.candidates) :]):
            if name.exists():
                note(f"{str(name)!r} was there before and is not of this run")


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
