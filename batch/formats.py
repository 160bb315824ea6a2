"""Files of rows, read a row at a time: JSONL, CSV and parquet. Knows nothing of what the columns mean.

Memory is bounded for any content: a line has at most MAX_LINE_BYTES.
"""

from __future__ import annotations

import codecs
import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import OmniGen2Error, RequestError
from ..runtime.files.json_text import parse_object
from ..runtime.files.reading import open_regular

MAX_LINE_BYTES = 2**25
"""The longest line: room for a million characters of prompt, all of them escaped."""
PARQUET_ROWS = 64
"""Rows that are taken from a parquet file at a time."""
PARQUET_BUFFER_BYTES = 2**16


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """A row as its file holds it.

    number: 1 for the first row.
    place: the row's place in the file, for messages.
    values: the cells by column; None for an empty one.
    problem: the reason why the row can't be read, or None.
    """

    number: int
    place: str
    values: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    read: yields a file's rows. Raises RequestError where the file can't be read, or not beyond a place.
    has_header: whether all rows have the same columns, which the file names once.
    is_text: whether every cell is text, whatever its column.
    """

    read: Callable[[Path], Iterator[RawRow]]
    has_header: bool = False
    is_text: bool = False


def format_of(path: Path) -> Format:
    """The format that a file's name ends with. Raises RequestError for an unknown one."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise RequestError(f"the file of rows {str(path)!r} must end in {', '.join(FORMATS)}")
    return found


def read_jsonl(path: Path) -> Iterator[RawRow]:
    """The rows of a file with a JSON object on each line. Skips blank lines; a damaged line is a row with a problem."""
    number = 0
    for line_number, line in enumerate(_lines(path), 1):
        if line is not None and line.strip() in (b"", codecs.BOM_UTF8):
            continue
        number += 1
        values, problem = _json_row(line)
        yield RawRow(number=number, place=f"line {line_number}", values=values, problem=problem)


def read_csv(path: Path) -> Iterator[RawRow]:
    """The rows of a CSV file: commas, a header line, cells in double quotes where needed, UTF-8.

    Raises RequestError for a quote that isn't closed, or text after a closed one: rows can't be told apart from there on.
    """
    with _opened(path) as file, io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="") as text:
        table = csv.reader(_text_lines(path, text), strict=True)
        header = _header(path, next(_records(path, table), None))
        number, line_number = 0, table.line_num + 1
        for cells in _records(path, table):
            if cells:
                number += 1
                yield _csv_row(number, f"line {line_number}", header, cells)
            line_number = table.line_num + 1


def read_parquet(path: Path) -> Iterator[RawRow]:
    """The rows of a parquet file. Needs pyarrow."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise OmniGen2Error('reading parquet needs pyarrow: pip install "omnigen2-rt[parquet]"') from None
    with _opened(path) as opened:
        try:
            file = parquet.ParquetFile(opened, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False)
            _check_header(path, file.schema_arrow.names)
            batches = file.iter_batches(batch_size=PARQUET_ROWS, use_threads=False)
            rows = (row for batch in batches for row in batch.to_pylist())
            for number, values in enumerate(rows, 1):
                yield RawRow(number=number, place=f"row {number}", values=values)
        except RequestError:
            raise
        except Exception as error:  # a decoder facing damaged bytes may raise anything
            raise RequestError(f"{str(path)!r} can't be read as parquet: {error}") from error


def _opened(path: Path) -> io.BufferedReader:
    try:
        return open_regular(path)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | ValueError) -> RequestError:
    return RequestError(f"the file of rows {str(path)!r} can't be read: {getattr(error, 'strerror', None) or error}")


def _lines(path: Path) -> Iterator[bytes | None]:
    """The lines of a file, None for one that is too long."""
    with _opened(path) as file:
        try:
            while line := file.readline(MAX_LINE_BYTES):
                is_whole = len(line) < MAX_LINE_BYTES or line.endswith(b"\n")
                yield line if is_whole else None
                while not is_whole:
                    rest = file.readline(MAX_LINE_BYTES)
                    is_whole = len(rest) < MAX_LINE_BYTES or rest.endswith(b"\n")
        except OSError as error:
            raise _unreadable(path, error) from error


def _json_row(line: bytes | None) -> tuple[dict[str, Any], str | None]:
    if line is None:
        return {}, f"it is longer than {MAX_LINE_BYTES} bytes"
    try:
        return parse_object(line), None
    except ValueError as error:
        return {}, f"it {error}"


def _text_lines(path: Path, text: io.TextIOWrapper) -> Iterator[str]:
    try:
        for number in range(1, 2**63):
            line = text.readline(MAX_LINE_BYTES)
            if len(line) == MAX_LINE_BYTES and not line.endswith(("\n", "\r")):
                raise RequestError(f"{str(path)!r}: line {number} is longer than {MAX_LINE_BYTES} characters")
            if not line:
                return
            yield line
    except OSError as error:
        raise _unreadable(path, error) from error


def _records(path: Path, table: Any) -> Iterator[list[str]]:
    """The records of a `csv.reader`. Raises RequestError for a malformed one, naming the line."""
    try:
        while (record := _next_record(table)) is not None:
            yield record
    except csv.Error as error:
        advice = "quote cells with double quotes and double the quotes inside, or use JSONL"
        raise RequestError(f"{str(path)!r} is malformed CSV near line {table.line_num}: {error}; {advice}") from error


def _next_record(table: Any) -> list[str] | None:
    """The next record, or None at the end. The csv module's limit of a cell holds for the whole process: it is put back."""
    before = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        record: list[str] | None = next(table, None)
        return record
    finally:
        csv.field_size_limit(before)


def _header(path: Path, names: Sequence[str] | None) -> list[str]:
    if not names:
        raise RequestError(f"{str(path)!r} has no header: its first line must name the columns")
    header = [name.strip() for name in names]
    _check_header(path, header)
    return header


def _check_header(path: Path, names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise RequestError(f"{str(path)!r} has the column {twice[0]!r} twice")


def _csv_row(number: int, place: str, header: list[str], cells: list[str]) -> RawRow:
    if len(cells) != len(header):
        return RawRow(number=number, place=place, values={}, problem=f"it has {len(cells)} cells; the header names {len(header)}")
    values = {name: cell or None for name, cell in zip(header, cells, strict=True)}
    return RawRow(number=number, place=place, values=values)


FORMATS = {
    ".jsonl": Format(read=read_jsonl),
    ".ndjson": Format(read=read_jsonl),
    ".csv": Format(read=read_csv, has_header=True, is_text=True),
    ".parquet": Format(read=read_parquet, has_header=True),
}
"""By the end of a file's name."""
