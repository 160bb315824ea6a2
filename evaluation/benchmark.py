"""A benchmark as data: its grades, its formula, the settings of its drawings, and how its rows become samples.

The engine (drawing, judging, scores, report) works with any of them. Knows no single benchmark, see `benchmarks`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import RequestError
from .data_files import PictureStore, data_files, read_rows, text_cell
from .rubrics import Rubric, Rubrics
from .samples import Sample, checked_samples

LANGUAGE = "instruction_language"
NEGATIVE_PROMPT = (
    "low quality, blurred, oversaturated, misshapen bodies, wrong anatomy, disfigured or badly drawn faces and hands, "
    "extra or missing limbs, merged fingers, sloppy drawing, ugly, censor bars"
)
"""The flaws that the published driver's default names, in words of our own."""


def first(values: Sequence[float]) -> float:
    """The only grade."""
    return values[0]


def mean(values: Sequence[float]) -> float:
    """The mean."""
    return sum(values) / len(values)


def geometric_mean(values: Sequence[float]) -> float:
    """The root of the product of two."""
    return math.sqrt(values[0] * values[1])


def shifted_timesteps(steps: int, shift: float) -> tuple[float, ...]:
    """The times of a schedule with a fixed shift: t / (shift - shift·t + t), from noise (0) up."""
    even = [step / steps for step in range(steps)]
    return tuple(t / (shift - shift * t + t) for t in even)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One question to the judge about a picture.

    name: in files, such as "PF".
    title: in words.
    sections: the rubric's sections for a sample; the first one that the rubric has is taken.
    join: makes the metric's value from the grades of an answer.
    shows_inputs: whether the judge sees the input pictures.
    """

    name: str
    title: str
    sections: Callable[[Sample], tuple[str, ...]]
    join: Callable[[Sequence[float]], float] = first
    shows_inputs: bool = True

    def rubric(self, sample: Sample, rubrics: Rubrics) -> Rubric:
        """The rubric for a sample. Raises RequestError where there is none."""
        wanted = self.sections(sample)
        found = next((rubrics[name] for name in wanted if name in rubrics), None)
        if found is None:
            raise RequestError(f"the rubric has no section {' or '.join(map(repr, wanted))}; it has {', '.join(rubrics)}")
        if self.join is first and len(found.scores) > 1:
            raise RequestError(f"{self.title} is one grade; the rubric's section for it names {', '.join(found.scores)}")
        return found


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A benchmark.

    name: on the command line.
    title: in words.
    metrics: the questions to the judge.
    grades: the names of the grades of rubric sections that name none.
    lowest, highest: the scale of every grade.
    overall: the name of a sample's score; it is `combine` of the metrics' values.
    drawing: fields of `Request` that the published results were drawn with, or as close to that as is known.
    shift: the fixed shift of the drawings' times; None for the model's own times.
    columns: the columns of its rows that are read.
    sample: makes a sample of a row and its place. Raises RequestError.
    subtasks, samples: how many the published set has, in a language.
    judge: the model that judged the published results.
    text_form: the form of a rubric that is a mere text, see `Rubric`.
    judge_tokens: the limit of an answer.
    languages: those of its instructions.
    """

    name: str
    title: str
    metrics: tuple[Metric, ...]
    grades: tuple[str, ...] = ("score",)
    lowest: int = 0
    highest: int = 10
    overall: str = "overall"
    combine: Callable[[Sequence[float]], float]
    drawing: Mapping[str, Any]
    shift: float | None = None
    columns: tuple[str, ...]
    sample: Callable[[dict[str, Any], str, PictureStore], Sample]
    subtasks: int
    samples: int
    judge: str
    text_form: str = "object"
    judge_tokens: int = 1400
    languages: tuple[str, ...] = ("en",)

    def drawing_fields(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of its drawings' requests. changes: those that differ from `drawing`."""
        fields = {**self.drawing, **changes}
        if self.shift is not None and "timesteps" not in changes:
            fields["timesteps"] = shifted_timesteps(fields["steps"], self.shift)
        return fields

    def read(self, data: Path, pictures: Path, language: str) -> tuple[Sample, ...]:
        """The samples of a language in `data`. pictures: the folder for those that parquet files hold.

        Raises RequestError where the data can't be read or has none.
        """
        files = data_files(data)
        store = PictureStore(pictures, data if data.is_dir() else data.parent)
        rows = read_rows(files, self.columns)
        return checked_samples(self._samples(rows, store, language))

    def _samples(self, rows: Iterable[tuple[str, dict[str, Any]]], store: PictureStore, language: str) -> Iterator[Sample]:
        """The samples of a language; a row that names none, or null, is in the language asked for."""
        for place, row in rows:
            row[LANGUAGE] = text_cell(row, LANGUAGE, place, language)
            if row[LANGUAGE] == language:
                yield self.sample(row, place, store)

    def is_whole(self, samples: Sequence[Sample]) -> bool:
        """Whether these are as many samples and subtasks as the published set has."""
        return len(samples) == self.samples and len({sample.task for sample in samples}) == self.subtasks
