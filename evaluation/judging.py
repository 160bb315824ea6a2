"""The judge at work: asks about every picture of a set, through the cache, in several threads.

What can't be judged is missing, with its reason: a picture that isn't there, a refusal, an answer that can't be read.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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


def judge_samples(
    judge: Judge,
    benchmark: Benchmark,
    samples: Sequence[Sample],
    folder: Path,
    progress: Progress = no_progress,
) -> Judgings:
    """Judge the pictures of all samples that have one in `folder`, the results of one model.

    Raises RequestError where a rubric is missing, EndpointUnusable where the judge answers nobody, EndpointError where it
    has stopped to answer. Answers that were given are kept.
    """
    for sample in samples:
        for metric in benchmark.metrics:
            metric.rubric(sample, judge.rubrics)
    present = [sample for sample in samples if picture_path(folder, sample).is_file()]
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

    def judge(self, call: _Call) -> Judging:
        """The judging of a call, missing or not. Raises EndpointError where nothing more is to be expected."""
        try:
            judging = self._asked(call)
        except (EndpointUnusable, RequestError) as error:
            if isinstance(error, EndpointUnusable):
                raise
            return _missing(str(error))
        except QuestionRefused as error:
            self._count(failed=False)
            return _missing(str(error))
        except EndpointError as error:
            if self._count(failed=True) >= MOST_FAILURES:
                raise
            return _missing(str(error))
        self._count(failed=False)
        return judging

    def _asked(self, call: _Call) -> Judging:
        judge, rubric = self._judge, call.metric.rubric(call.sample, self._judge.rubrics)
        low, high = self._benchmark.lowest, self._benchmark.highest
        question = self._question(call)
        kept = judge.cache.get(judge.model, question, call.repetition)
        grades = None if kept is None else read_grades(kept, rubric, low, high)
        if kept is None or grades is None or (grades.problem is not None and judge.asks_again):
            kept = judge.asker.ask(question)
            judge.cache.put(judge.model, question, call.repetition, kept)
            grades = read_grades(kept, rubric, low, high)
        return _judging(call.metric, kept, grades)

    def _question(self, call: _Call) -> Question:
        judge, sample = self._judge, call.sample
        rubric = call.metric.rubric(sample, judge.rubrics)
        inputs = [judged_input(file) for file in sample.inputs] if call.metric.shows_inputs else []
        output = judged_output(picture_path(self._folder, sample))
        text = rubric.prompt(sample.instruction, self._benchmark.lowest, self._benchmark.highest)
        return Question(
            parts=(text, *inputs, output),
            schema=rubric.schema,
            max_tokens=judge.max_tokens,
            temperature=judge.temperature,
            seed=None if judge.seed is None else judge.seed + call.repetition,
        )

    def _count(self, *, failed: bool) -> int:
        """Count an answer, or a failure. Returns the failures in a row."""
        with self._lock:
            self._failures = self._failures + 1 if failed else 0
            return self._failures


def _judging(metric: Metric, answer: Answer, grades: Grades) -> Judging:
    value = None if grades.problem is not None else metric.join([*grades.scores.values()])
    return Judging(value=value, grades=grades, model=answer.model, tokens=answer.tokens)


def _missing(problem: str) -> Judging:
    return Judging(value=None, grades=Grades(problem=problem))
