"""An evaluation from pictures to files: judges the pictures of one model or two, scores them, writes scores, summary and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..runtime.progress import Progress, no_progress
from .benchmark import Benchmark
from .judging import Judge, judge_samples
from .report import Shown, report_page
from .results import COMBINED, REPORT, SUMMARY, average_facts, write_facts, write_file, write_scores
from .rubrics import rubrics_hash
from .samples import Sample, safe_name, with_problems
from .scores import (
    Average,
    Completeness,
    SampleScore,
    averages,
    completeness_of,
    differences,
    reported_models,
    score_samples,
    used_tokens,
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The scores of a model.

    name: the model's; the name of its folder.
    folder: its results.
    shared: the averages of the samples that all published models could be scored on; None where the benchmark has no such part.
    """

    name: str
    folder: Path
    scores: tuple[SampleScore, ...]
    completeness: Completeness
    averages: Mapping[str, Average]
    shared: Mapping[str, Average] | None

    @property
    def shown(self) -> Shown:
        """The part that the page shows."""
        return Shown(
            name=self.name,
            folder=self.folder,
            scores=self.scores,
            averages=self.averages,
            completeness=self.completeness,
        )


def judge_folder(judge: Judge, language: str) -> str:
    """The name of a judge's folder; languages but English have folders of their own."""
    return safe_name(judge.model if language == "en" else f"{judge.model}-{language}")


def judge_model(
    benchmark: Benchmark,
    samples: Sequence[Sample],
    folder: Path,
    judge: Judge,
    *,
    language: str = "en",
    problems: Mapping[str, str] | None = None,
    drawing: Mapping[str, Any] | None = None,
    allow_incomplete: bool = False,
    progress: Progress = no_progress,
) -> Outcome:
    """Judge a model's pictures and write its scores, summary and page.

    problems: why samples could not be drawn, by name; they count as missing, whatever file lies in their place.
    drawing: the pictures' settings, for the summary.
    Raises RequestError, EndpointError and EndpointUnusable as `judge_samples` does; then no file is written.
    """
    samples = with_problems(samples, problems or {})
    scores = score_samples(benchmark, samples, judge_samples(judge, benchmark, samples, folder, progress))
    completeness = completeness_of(benchmark, scores)
    has_total = allow_incomplete or completeness.is_complete
    shared = [score for score in scores if score.sample.is_shared]
    outcome = Outcome(
        name=folder.name,
        folder=folder,
        scores=scores,
        completeness=completeness,
        averages=averages(benchmark, scores, has_total),
        shared=averages(benchmark, shared, has_total) if shared else None,
    )
    target = folder / judge_folder(judge, language)
    write_scores(benchmark, scores, folder, target.name)
    write_facts(target / SUMMARY, _summary(benchmark, outcome, judge, language, drawing))
    write_file(target / REPORT, report_page(benchmark, outcome.shown, _subtitle(outcome, judge)))
    return outcome


def compare_models(
    benchmark: Benchmark, ours: Outcome, theirs: Outcome, judge: Judge, *, language: str = "en", allow_incomplete: bool = False
) -> dict[str, Average]:
    """The paired differences, ours minus theirs; also written into our folder, with a page of both models side by side."""
    has_total = allow_incomplete or (ours.completeness.is_complete and theirs.completeness.is_complete)
    difference = differences(benchmark, ours.scores, theirs.scores, has_total)
    target, name = ours.folder / judge_folder(judge, language), f"against-{theirs.name}"
    facts = {"benchmark": benchmark.name, "model": ours.name, "against": theirs.name, "difference": average_facts(difference)}
    write_facts(target / f"{name}.json", facts)
    page = report_page(benchmark, ours.shown, _subtitle(ours, judge), theirs.shown, difference)
    write_file(target / f"{name}.html", page)
    return difference


def _summary(
    benchmark: Benchmark, outcome: Outcome, judge: Judge, language: str, drawing: Mapping[str, Any] | None
) -> dict[str, Any]:
    return {
        "benchmark": benchmark.name,
        "language": language,
        "model": outcome.name,
        "drawing": None if drawing is None else dict(drawing),
        "judge": {
            "model": judge.model,
            "reported_models": reported_models(outcome.scores),
            "rubrics_sha256": rubrics_hash(judge.rubrics),
            "judgings": judge.judgings,
            "max_tokens": judge.max_tokens,
            "temperature": judge.temperature,
            "seed": judge.seed,
            "tokens": used_tokens(outcome.scores),
        },
        "completeness": {**asdict(outcome.completeness), "is_complete": outcome.completeness.is_complete},
        "averages": average_facts(outcome.averages),
        "shared_part": None if outcome.shared is None else average_facts(outcome.shared),
        "scores": COMBINED,
    }


def _subtitle(outcome: Outcome, judge: Judge) -> str:
    reported = ", ".join(reported_models(outcome.scores)) or judge.model
    times = "" if judge.judgings == 1 else f", {judge.judgings} times each"
    return f"{len(outcome.scores)} samples, judged by {reported}{times}"
