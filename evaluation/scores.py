"""Scores of one model on a benchmark: of each sample, and their averages with what is missing. Knows no judge and no files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .benchmark import Benchmark, mean
from .judging import Judging, Judgings
from .samples import Sample, subtasks
from .statistics import Estimate, Groups, estimate, paired_differences

NOT_WHOLE = "This is not the whole published set: its average is not a score of the benchmark."

OUTPUT_MISSING = "there is no picture"


@dataclass(frozen=True, kw_only=True)
class SampleScore:
    """The score of a sample.

    metrics: the value of each; None where no answer could be read.
    overall: None where a metric is.
    judgings: the answers by metric; empty without a picture.
    problems: why something is missing; empty for a sample that is scored whole.
    """

    sample: Sample
    metrics: Mapping[str, float | None]
    overall: float | None
    judgings: Mapping[str, tuple[Judging, ...]]
    problems: tuple[str, ...] = ()


def score_samples(benchmark: Benchmark, samples: Sequence[Sample], judgings: Judgings) -> tuple[SampleScore, ...]:
    """The score of each sample; none of a sample that has a problem."""
    return tuple(_score(benchmark, sample, judgings.get(sample.name)) for sample in samples)


def _score(benchmark: Benchmark, sample: Sample, judgings: Mapping[str, tuple[Judging, ...]] | None) -> SampleScore:
    names = [metric.name for metric in benchmark.metrics]
    if judgings is None or sample.problem is not None:
        problem = sample.problem or OUTPUT_MISSING
        return SampleScore(sample=sample, metrics=dict.fromkeys(names), overall=None, judgings={}, problems=(problem,))
    values = {name: _mean([judging.value for judging in judgings[name] if judging.value is not None]) for name in names}
    known = [value for value in values.values() if value is not None]
    missing = [(name, judging.grades.problem) for name in names for judging in judgings[name]]
    return SampleScore(
        sample=sample,
        metrics=values,
        overall=benchmark.combine(known) if len(known) == len(names) else None,
        judgings=judgings,
        problems=tuple(f"{name}: {problem}" for name, problem in missing if problem is not None),
    )


def _mean(values: Sequence[float]) -> float | None:
    """The mean, None of nothing; of a single value the value itself, an integer too."""
    return None if not values else values[0] if len(values) == 1 else mean(values)


@dataclass(frozen=True, kw_only=True)
class Average:
    """A metric's averages.

    tasks: the mean of each subtask that has a value.
    all: over all subtasks; None where it isn't given, or nothing has a value.
    """

    tasks: Mapping[str, float]
    all: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Completeness:
    """The gaps of a set of scores.

    samples: the number of samples, and of those without a score: unscored.
    missing_answers: single answers that are missing, about pictures that are there.
    is_whole: whether the set is as large as the published one.
    """

    samples: int
    unscored: int
    missing_answers: int
    is_whole: bool

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing, of the published set or of its answers."""
        return self.is_whole and not self.unscored and not self.missing_answers


def completeness_of(benchmark: Benchmark, samples: Sequence[SampleScore]) -> Completeness:
    """Count the gaps of a set of scores."""
    return Completeness(
        samples=len(samples),
        unscored=sum(score.overall is None for score in samples),
        missing_answers=sum(len(score.problems) for score in samples if score.judgings),
        is_whole=benchmark.is_whole([score.sample for score in samples]),
    )


def gap_lines(completeness: Completeness) -> list[str]:
    """The gaps in words, a line for each kind."""
    lines = []
    if not completeness.is_whole:
        lines.append(NOT_WHOLE)
    if completeness.unscored:
        lines.append(f"Samples without a score: {completeness.unscored} of {completeness.samples}.")
    if completeness.missing_answers:
        lines.append(f"Answers of the judge that are missing or can't be read: {completeness.missing_answers}.")
    return lines


def averages(benchmark: Benchmark, samples: Sequence[SampleScore], has_total: bool) -> dict[str, Average]:
    """The averages by what is averaged. has_total: whether an average over all subtasks is given."""
    groups = {name: values_of(samples, name) for name in measures(benchmark)}
    return {
        name: _average({task: [*values.values()] for task, values in group.items()}, has_total) for name, group in groups.items()
    }


def measures(benchmark: Benchmark) -> tuple[str, ...]:
    """The names of what is averaged: the metrics, and the overall score last where it isn't the only metric."""
    names = tuple(metric.name for metric in benchmark.metrics)
    return (*names, benchmark.overall) if len(names) > 1 else (benchmark.overall,)


def values_of(samples: Sequence[SampleScore], name: str) -> dict[str, dict[str, float]]:
    """A metric's values, or the overall scores for any other name, by subtask and sample; without the missing ones."""
    groups: dict[str, dict[str, float]] = {task: {} for task in subtasks(score.sample for score in samples)}
    for score in samples:
        value = score.metrics.get(name, score.overall)
        if value is not None:
            groups[score.sample.task][score.sample.name] = value
    return groups


def differences(
    benchmark: Benchmark, ours: Sequence[SampleScore], theirs: Sequence[SampleScore], has_total: bool
) -> dict[str, Average]:
    """The paired differences, ours minus theirs, over the samples that both have a value of; by what is averaged."""
    pairs = {name: (values_of(ours, name), values_of(theirs, name)) for name in measures(benchmark)}
    return {name: _average(paired_differences(*pair), has_total) for name, pair in pairs.items()}


def _average(groups: Groups, has_total: bool) -> Average:
    present = {task: values for task, values in groups.items() if values}
    return Average(tasks={task: mean(values) for task, values in present.items()}, all=estimate(present) if has_total else None)


def reported_models(samples: Sequence[SampleScore]) -> dict[str, int]:
    """The number of answers by the model's name, as the endpoint reported it."""
    return dict(sorted(Counter(judging.model for judging in _answers(samples) if judging.model).items()))


def used_tokens(samples: Sequence[SampleScore]) -> dict[str, int]:
    """The tokens of all answers, by kind."""
    tokens: Counter[str] = Counter()
    for judging in _answers(samples):
        tokens.update(judging.tokens)
    return dict(sorted(tokens.items()))


def _answers(samples: Sequence[SampleScore]) -> Iterator[Judging]:
    for score in samples:
        for answers in score.judgings.values():
            yield from answers
