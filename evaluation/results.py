"""Results of one model as files: a JSONL of scores for each subtask in the published layout, all of them together, and a summary.

    OUT/
        answers/              the judge's answers, see `answer_cache`
        inputs/               input pictures that parquet files held
        lock                  locked by the process at work
        NAME/                 the results of a model
            fullset/TASK/KEY.png
            JUDGE/            the judge's model
                TASK/score.jsonl
                combined_score.jsonl
                summary.json
                report.html

Nothing here depends on when it was written: the same answers give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..runtime.errors import RequestError
from ..runtime.files.locking import open_lock, try_lock
from ..runtime.files.writing import PARTIAL, PARTIAL_NAME, write_whole
from .benchmark import Benchmark
from .pictures import picture_path
from .samples import safe_name, subtasks
from .scores import Average, SampleScore

SCORES, COMBINED, SUMMARY, REPORT = "score.jsonl", "combined_score.jsonl", "summary.json", "report.html"
ANSWERS, INPUTS, LOCK = "answers", "inputs", "lock"
DIGITS = 6


@contextmanager
def locked_results(out: Path) -> Iterator[None]:
    """Keep other evaluations out of the folder of results, which is made where it is missing. Raises RequestError.

    Removes the temporary files of a run that was killed.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = open_lock(out / LOCK)
    except OSError as error:
        raise RequestError(f"{str(out)!r} can't take results: {error.strerror or error}") from error
    with lock:
        try:
            is_ours = try_lock(lock.fileno())
        except OSError:  # a filesystem without locks
            is_ours = True
        if not is_ours:
            raise RequestError(f"another evaluation is at work in {str(out)!r}: wait for its end, or name another --out")
        for path in out.rglob(f"{PARTIAL}*"):
            if PARTIAL_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield


def score_row(benchmark: Benchmark, score: SampleScore, folder: Path) -> dict[str, Any]:
    """A sample's line. folder: the results of the model; the picture's path begins there. A missing value is null."""
    sample = score.sample
    row: dict[str, Any] = {
        "key": sample.key,
        "task_type": sample.task,
        "instruction": sample.instruction,
        "instruction_language": sample.language,
        "output_image_path": picture_path(folder, sample).relative_to(folder.parent).as_posix(),
    }
    for metric in benchmark.metrics:
        judgings = score.judgings.get(metric.name, ())
        row[f"{metric.name}_score"] = _rounded(score.metrics[metric.name])
        row[f"{metric.name}_score_reason"] = "\n".join(each.grades.reason for each in judgings if each.value is not None) or None
    row["overall_score"] = _rounded(score.overall)
    row["problems"] = [*score.problems]
    row["judgings"] = {
        name: [{"scores": {**each.grades.scores}, "problem": each.grades.problem, "model": each.model} for each in judgings]
        for name, judgings in score.judgings.items()
    }
    return row


def _rounded(value: float | None) -> float | None:
    return value if value is None or isinstance(value, int) else round(value, DIGITS)


def average_facts(averages: Mapping[str, Average]) -> dict[str, Any]:
    """Averages as JSON: of each subtask and over all with its interval, or null."""
    return {
        name: {
            "subtasks": {task: _rounded(value) for task, value in average.tasks.items()},
            "average": None if average.all is None else {key: _rounded(value) for key, value in asdict(average.all).items()},
        }
        for name, average in averages.items()
    }


def write_scores(benchmark: Benchmark, scores: Sequence[SampleScore], folder: Path, judge: str) -> None:
    """Write the lines of all samples, by subtask and together. judge: names the judge's folder. Raises RequestError."""
    rows = [(score.sample.task, score_row(benchmark, score, folder)) for score in scores]
    for task in subtasks(score.sample for score in scores):
        _write_lines(folder / judge / safe_name(task) / SCORES, (row for name, row in rows if name == task))
    _write_lines(folder / judge / COMBINED, (row for _, row in rows))


def _write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_file(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a JSON object. Raises RequestError."""
    write_file(path, json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def write_file(path: Path, text: str) -> None:
    """Write a file, whole or not at all, and its folder. Raises RequestError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        raise RequestError(f"can't write {str(path)!r}: {error.strerror or error}") from error
