"""Samples of a benchmark: an instruction, its input pictures, and the names of the files that belong to it.

Knows no file format, see `data_files`, and no benchmark.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from ..runtime.errors import RequestError, shown

MAX_NAME_BYTES = 180
"""The longest name of a file before its ending, which every filesystem takes."""
HASH_DIGITS = 32


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One task for the model.

    key: names it among all samples of its subtask.
    task: its subtask.
    inputs: the input pictures' files, in their order.
    problem: why it has no picture, such as a missing input or a drawing that failed; None for a whole sample.
        The sample counts as missing, whatever file lies in its place.
    is_shared: whether it belongs to the part that all published models could be scored on (GEdit's intersection).
    has_language_folder: whether its files lie in a folder of its language.
    """

    key: str
    task: str
    instruction: str
    language: str = "en"
    inputs: tuple[Path, ...] = ()
    problem: str | None = None
    is_shared: bool = False
    has_language_folder: bool = False

    @property
    def name(self) -> str:
        """Names the sample among all, and its picture's file: subtask/key or subtask/language/key, safe on every system."""
        parts = [self.task, self.language, self.key] if self.has_language_folder else [self.task, self.key]
        return "/".join(map(safe_name, parts))


def with_problems(samples: Iterable[Sample], problems: Mapping[str, str]) -> tuple[Sample, ...]:
    """The samples, each with its problem of drawing. problems: by sample name; a problem that a sample has stays."""
    return tuple(replace(each, problem=each.problem or problems.get(each.name)) for each in samples)


def safe_name(text: str) -> str:
    """The text as a file's name: what isn't safe there is written as %XX, so different texts stay different.

    A name that gets too long is cut, and ends with ~ and a hash of the text.
    """
    name = quote(text, safe=" ,+=()[]@!&'")
    name = f"%2E{name[1:]}" if name.startswith(".") else name
    name = f"{name[:-1]}%{ord(name[-1]):02X}" if name.endswith((".", " ")) else name
    if len(name) <= MAX_NAME_BYTES:
        return name
    mark = f"~{hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]}"
    return f"{name[: MAX_NAME_BYTES - len(mark)]}{mark}"


def checked_samples(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """The samples. Raises RequestError where there are none, a name is empty, or two share one."""
    listed = tuple(samples)
    if not listed:
        raise RequestError("there are no samples: check the file, the language and the subtasks")
    for sample in listed:
        if not sample.key or not sample.task:
            raise RequestError(f"the key {shown(sample.key)} or its subtask {shown(sample.task)} is empty")
    name, count = Counter(sample.name.casefold() for sample in listed).most_common(1)[0]
    if count > 1:
        raise RequestError(f"the sample {name!r} is there {count} times: keys must differ within a subtask")
    return listed


def chosen_samples(samples: Sequence[Sample], tasks: Sequence[str], limit: int | None) -> tuple[Sample, ...]:
    """The first `limit` samples of each of these subtasks; all for no subtasks, or without a limit. Raises RequestError."""
    known = subtasks(samples)
    unknown = [task for task in tasks if task not in known]
    if unknown:
        raise RequestError(f"there is no subtask {shown(unknown[0])}; there are {', '.join(known)}")
    taken: Counter[str] = Counter()
    chosen = []
    for sample in samples:
        if (not tasks or sample.task in tasks) and (limit is None or taken[sample.task] < limit):
            taken[sample.task] += 1
            chosen.append(sample)
    return tuple(chosen)


def subtasks(samples: Iterable[Sample]) -> tuple[str, ...]:
    """The subtasks, in the order in which they first come."""
    return tuple(dict.fromkeys(sample.task for sample in samples))
