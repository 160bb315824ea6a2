"""The manifest: the outcome of each row, a JSON object on a line. Of several lines of a row the last one counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..runtime.errors import RequestError
from ..runtime.files.json_text import parse_object
from .disk_table import DiskTable
from .outputs import LINE_BEGIN, Output


@dataclass(frozen=True, kw_only=True)
class Record:
    """The outcome of a row.

    row: the row's number; 1 is the first.
    id: the row's id; None where it has none of its own.
    files: the names of its pictures; empty where it has none.
    sizes_bytes: the size of each.
    seed: the seed it was drawn with, or None.
    seconds: the time that drawing took; None where it wasn't drawn, or the time isn't known.
    error: the reason why there are no pictures, or None.
    cut_tokens: see `Result.cut_tokens`.
    digest: see `Job.digest`; None where the row can't be drawn.
    parameters: the drawing's parameters, as the files keep them; None where there are none.
    """

    row: int
    id: str | None
    files: tuple[str, ...] = ()
    sizes_bytes: tuple[int, ...] = ()
    seed: int | None = None
    seconds: float | None = None
    error: str | None = None
    cut_tokens: Mapping[str, int] | None = None
    digest: str | None = None
    parameters: Mapping[str, Any] | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each picture by its file."""
        return dict(zip(self.files, self.sizes_bytes, strict=True))

    @property
    def key(self) -> str:
        """Tells the row from all others of its file."""
        return f"row {self.row}" if self.id is None else f"id {self.id}"

    def line(self) -> bytes:
        """The record as a line of the manifest."""
        return json.dumps(asdict(self), allow_nan=False).encode() + b"\n"


class Manifest:
    """An output's manifest: the last record of each row, and new records at its end."""

    def __init__(self, output: Output) -> None:
        """Read the manifest. Skips lines that are no records. Raises RequestError where no line is one."""
        self._output, self._known = output, DiskTable()
        foreign = ours = False
        for line in output.lines():
            record = _parse(line)
            if record is None:
                foreign = foreign or not _is_cut_off(line)
            else:
                ours = True
                self._remember(record)
        if foreign and not ours:
            raise RequestError(f"{output.manifest!r} is no manifest of a batch: name another output")

    def known(self, name: str) -> Record | None:
        """The last record of the row of that id, or None."""
        return self._last(f"id {name}")

    def is_as_written(self, name: str, digest: str, size: int) -> bool:
        """False where the last record of a file has that digest of its row, and another size: somebody changed the file since."""
        written = (self._known[f"file {name}"] or "").partition(" ")
        return written[0] != digest or written[2] == str(size)

    def add(self, record: Record) -> None:
        """Add a record, unless the row's last one has the same number and outcome. Raises RequestError."""
        last = self._last(record.key)
        if last is None or _outcome(last) != _outcome(record):
            self._output.append(record.line())
            self._remember(record)

    def close(self) -> None:
        """Free the table of records. The output stays open."""
        self._known.close()

    def _last(self, key: str) -> Record | None:
        text = self._known[key]
        return None if text is None else _parse(text.encode())

    def _remember(self, record: Record) -> None:
        self._known[record.key] = record.line().decode()
        for name, size in record.sizes.items():
            self._known[f"file {name}"] = f"{record.digest} {size}"


def _is_cut_off(line: bytes) -> bool:
    """Whether it is the beginning of a record that was being written at a crash."""
    return not line.endswith(b"\n") and (line.startswith(LINE_BEGIN) or LINE_BEGIN.startswith(line))


def _outcome(record: Record) -> tuple[object, ...]:
    return record.row, record.digest, record.error, record.sizes


def _parse(line: bytes) -> Record | None:
    """The record of a whole line, or None for anything else."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = Record(**parse_object(line))
        if not _is_record(record):
            return None
        return replace(record, files=tuple(record.files), sizes_bytes=tuple(record.sizes_bytes))
    except (ValueError, TypeError):
        return None


def _is_record(record: Record) -> bool:
    """Whether the fields that are read have their types."""
    texts = (record.id, record.error, record.digest)
    lists = isinstance(record.files, list) and isinstance(record.sizes_bytes, list)
    return (
        type(record.row) is int
        and all(text is None or isinstance(text, str) for text in texts)
        and lists
        and all(isinstance(name, str) for name in record.files)
        and all(type(size) is int for size in record.sizes_bytes)
        and len(record.files) == len(record.sizes_bytes)
    )
