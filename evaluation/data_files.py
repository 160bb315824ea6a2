"""A benchmark's data as users have it: the hub's parquet files, JSONL beside a folder of pictures, or one JSON object.

Knows no benchmark: rows are dictionaries, and pictures become files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..runtime.errors import OmniGen2Error, RequestError, shown
from ..runtime.files.json_text import MAX_JSON_BYTES, parse_object
from ..runtime.files.reading import open_regular, read_bytes
from ..runtime.files.writing import write_whole

ROWS_AT_A_TIME = 8
"""Rows of a parquet file that are in memory together, with their pictures."""
MAX_LINE_BYTES = 2**24
TEXT_ENDS = (".jsonl", ".ndjson", ".json")


def data_files(data: Path) -> tuple[Path, ...]:
    """The files that hold the rows: `data` itself, or what lies in that folder. Raises RequestError."""
    if not data.is_dir():
        if data.suffix.lower() not in (*TEXT_ENDS, ".parquet"):
            raise RequestError(f"{str(data)!r} must be a folder, or end in {', '.join((*TEXT_ENDS, '.parquet'))}")
        return (data,)
    parquet = tuple(sorted(path for path in data.rglob("*.parquet") if not _is_hidden(path.relative_to(data))))
    text = sorted(path for path in data.iterdir() if path.suffix.lower() in TEXT_ENDS)
    if parquet:
        return parquet
    if len(text) == 1:
        return (text[0],)
    held = f"{len(text)} of them: name the file itself" if text else "none"
    raise RequestError(f"{str(data)!r} must hold parquet files, or one file that ends in {', '.join(TEXT_ENDS)}; it holds {held}")


def _is_hidden(path: Path) -> bool:
    """Whether it lies in a folder such as the hub's `.cache`."""
    return any(part.startswith(".") for part in path.parts)


def read_rows(files: tuple[Path, ...], columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with its place, for messages. columns: those that are read of parquet files, as far as they are there.

    Raises RequestError where a file can't be read, OmniGen2Error where parquet needs pyarrow.
    """
    for path in files:
        reading = {".parquet": _parquet_rows, ".json": _object_rows}.get(path.suffix.lower(), _line_rows)
        yield from reading(path, columns)


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise OmniGen2Error('reading parquet needs pyarrow: pip install "omnigen2-rt[parquet]"') from None
    try:
        with parquet.ParquetFile(path) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            batches = file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=there, use_threads=False)
            for number, row in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
                yield f"row {number} of {path.name!r}", row
    except RequestError:
        raise
    except Exception as error:  # a decoder facing damaged bytes may raise anything
        raise RequestError(f"{str(path)!r} can't be read as parquet: {error}") from error


def _line_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with open_regular(path) as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES):
                number += 1
                if line.strip():
                    yield f"line {number} of {path.name!r}", _parsed(line, f"{str(path)!r}: line {number}")
    except OSError as error:
        raise _unreadable(path, error) from error


def _object_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of one JSON object: key -> row."""
    try:
        rows = _parsed(read_bytes(path, MAX_JSON_BYTES), repr(str(path)))
    except OSError as error:
        raise _unreadable(path, error) from error
    for key, row in rows.items():
        if not isinstance(row, dict):
            raise RequestError(f"{str(path)!r}: {shown(key)} holds no object")
        yield f"{key!r} of {path.name!r}", {"key": key, **row}


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        return parse_object(content)
    except ValueError as error:
        raise RequestError(f"{where} {error}") from error


def _unreadable(path: Path, error: OSError) -> RequestError:
    return RequestError(f"{str(path)!r} can't be read: {error.strerror or error}")


def text_cell(row: dict[str, Any], column: str, place: str, default: str | None = None) -> str:
    """A row's text; a whole number counts as text. Raises RequestError where there is none and no default."""
    value = row.get(column)
    if value is None and default is not None:
        return default
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise RequestError(f"{place}: {column} is {shown(value)}, not text")
    return value


class PictureStore:
    """Pictures of rows as files. Those that a row holds as bytes are written into a folder, each once, named by their content."""

    def __init__(self, folder: Path, beside: Path) -> None:
        """beside: where relative names in rows begin."""
        self._folder, self._beside = folder, beside

    def file(self, cell: Any) -> Path:
        """The file of a row's picture: a name, bytes, or the hub's {"bytes", "path"}.

        Raises RequestError, whose message says what is missing.
        """
        if isinstance(cell, dict):
            content, name = cell.get("bytes"), cell.get("path")
            cell = content if content else name
        if isinstance(cell, bytes) and cell:
            return self._written(cell)
        if not isinstance(cell, str) or not cell:
            raise RequestError("an input picture is missing")
        path = self._beside / cell
        if not path.is_file():
            raise RequestError(f"the input picture {cell!r} is missing")
        return path

    def files(self, cells: Any) -> tuple[Path, ...]:
        """The files of a list of pictures, or of a single one. Raises as `file`."""
        listed = cells if isinstance(cells, list | tuple) else [cells]
        return tuple(self.file(cell) for cell in listed)

    def _written(self, content: bytes) -> Path:
        path = self._folder / hashlib.sha256(content).hexdigest()
        try:
            if not path.is_file() or path.stat().st_size != len(content):
                self._folder.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
        except OSError as error:
            raise OmniGen2Error(f"can't write {str(path)!r}: {error.strerror or error}") from error
        return path
