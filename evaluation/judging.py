"""The judge at work: asks about every picture of a set, through the cache, in several threads.

What can't be judged is missing, with its reason: a picture that isn't there, a refusal, an answer that can't be read.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ..runtime.checks import check_integer
from ..runtime.errors import RequestError
from ..runtime.progress import Progress, no_progress
from .answer_cache import AnswerCache, Asker
from .benchmark import Benchmark, Metric
from .endpoint import Answer, EndpointError, EndpointUnusable, Question, QuestionRefused
from .grades import Grades, read_grades
from .parallel import in_threads
from .pictures import judged_input, judged_output, picture_path
from .rubrics import Rubrics
from .samples import Sample

MOST_FAILURES = 3
"""Questions in a row that the endpoint didn't answer, after all tries, before the run ends."""
MOST_JUDGINGS = 100
REMEMBERED_PICTURES = 64
"""Encoded pictures that are kept for the next question about the same sample."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A judge and how it is asked.

    asker: the client of its endpoint.
    model: the model's name there; a part of the answers' keys.
    rubrics: by section.
    judgings: how often each question is asked, 1 to 100; a metric is the mean of the answers.
    max_tokens, temperature, seed: see `Question`. A seed grows by one from judging to judging.
    threads: questions at a time.
    asks_again: whether kept answers that can't be read are asked for anew.
    """

    asker: Asker
    model: str
    cache: AnswerCache
    rubrics: Rubrics
    judgings: int = 1
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    threads: int = 4
    asks_again: bool = False

    def __post_init__(self) -> None:
        check_integer("judgings", self.judgings, 1, "the fewest", MOST_JUDGINGS)
        check_integer("threads", self.threads, 1, "the fewest", 256)


@dataclass(frozen=True, kw_only=True)
class Judging:
    """One answer about one picture.

    value: the metric's value; None where it is missing.
    grades: what the answer says, or why there is none.
    model: the model's name as the endpoint reported it.
    tokens: see `Answer`.
    """

    value: float | None
    grades: Grades
    model: str = ""
    tokens: Mapping[str, int] = field(default_factory=dict)


class _Call(NamedTuple):
    sample: Sample
    metric: Metric
    repetition: int


Judgings = dict[str, dict[str, tuple[Judging, ...]]]
"""By sample name and metric name: the answers, in the order in which they were asked for."""


def check_rubrics(rubrics: Rubrics, benchmark: Benchmark, samples: Sequence[Sample]) -> None:
    """Raises RequestError where the rubrics lack a section for one of the samples."""
    for sample in samples:
        for metric in benchmark.metrics:
            metric.rubric(sample, rubrics)


def judge_samples(
    judge: Judge,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    folder: Path,
    progress: Progress = no_progress,
) -> Judgings:
    """Judge the pictures of all samples without a problem that have one in `folder`, the results of one model.

    Raises RequestError where a rubric is missing, EndpointUnusable where the judge answers nobody, EndpointError where it
    has stopped to answer. Answers that were given are kept.
    """
    check_rubrics(judge.rubrics, benchmark, samples)
    present = [sample for sample in samples if sample.problem is None and picture_path(folder, sample).is_file()]
    repetitions = range(judge.judgings)
    calls = [_Call(sample, metric, k) for sample in present for metric in benchmark.metrics for k in repetitions]
    work, done = _Work(judge, benchmark, folder), {}
    progress(0, len(calls), f"answers about {folder.name}")
    for call, judging in in_threads(work.judge, calls, judge.threads):
        done[call.sample.name, call.metric.name, call.repetition] = judging
        progress(len(done), len(calls), f"answers about {folder.name}")
    return {
        sample.name: {
            metric.name: tuple(done[sample.name, metric.name, k] for k in repetitions) for metric in benchmark.metrics
        }
        for sample in present
    }


class _Work:
    """Judges one call at a time; several threads share it."""

    def __init__(self, judge: Judge, benchmark: Benchmark, folder: Path) -> None:
        self._judge, self._benchmark, self._folder = judge, benchmark, folder
        self._lock, self._failures = threading.Lock(), 0
        self._input, self._output = lru_cache(REMEMBERED_PICTURES)(judged_input), lru_cache(REMEMBERED_PICTURES)(judged_output)

    def judge(self, call: _Call) -> Judging:
        """The judging of a call, missing or not. Raises EndpointError where nothing more is to be expected."""
        try:
            question = self._question(call)
        except RequestError as error:  # a picture that can't be read
            return _missing(str(error))
        try:
            judging = self._asked(call, question)
        except EndpointUnusable:
            raise
        except QuestionRefused as error:
            judging = _missing(str(error))
        except EndpointError as error:
            if self._count(failed=True) >= MOST_FAILURES:
                raise
            return _missing(str(error))
        self._count(failed=False)
        return judging

    def _question(self, call: _Call) -> Question:
        judge, sample = self._judge, call.sample
        rubric = call.metric.rubric(sample, judge.rubrics)
        inputs = [self._input(file) for file in sample.inputs] if call.metric.shows_inputs else []
        output = self._output(picture_path(self._folder, sample))
        return Question(
            parts=(rubric.prompt(sample.instruction, self._benchmark.lowest, self._benchmark.highest), *inputs, output),
            schema=rubric.schema,
            max_tokens=judge.max_tokens,
            temperature=judge.temperature,
            seed=None if judge.seed is None else judge.seed + call.repetition,
        )

    def _asked(self, call: _Call, question: Question) -> Judging:
        """The judging of the kept answer, or of a new one, which is kept."""
        judge, kept = self._judge, self._judge.cache.get(self._judge.model, question, call.repetition)
        judging = None if kept is None else self._read(call, kept)
        if judging is not None and not (judge.asks_again and judging.value is None):
            return judging
        answer = judge.asker.ask(question)
        judge.cache.put(judge.model, question, call.repetition, answer)
        return self._read(call, answer)

    def _read(self, call: _Call, answer: Answer) -> Judging:
        rubric = call.metric.rubric(call.sample, self._judge.rubrics)
        grades = read_grades(answer, rubric, self._benchmark.lowest, self._benchmark.highest)
        value = None if grades.problem is not None else call.metric.join([*grades.scores.values()])
        return Judging(value=value, grades=grades, model=answer.model, tokens=answer.tokens)

    def _count(self, *, failed: bool) -> int:
        """Count an answer, or a failure. Returns the failures in a row."""
        with self._lock:
            self._failures = self._failures + 1 if failed else 0
            return self._failures


def _missing(problem: str) -> Judging:
    return Judging(value=None, grades=Grades(problem=problem))
