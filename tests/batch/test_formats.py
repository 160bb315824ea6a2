"""Rows from JSONL, CSV and parquet files, also from damaged ones."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from omnigen2_rt.batch import formats
from omnigen2_rt.batch.formats import RawRow, format_of
from omnigen2_rt.runtime.errors import RequestError


def read(path: Path) -> list[RawRow]:
    return list(format_of(path).read(path))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def write_parquet(path: Path, columns: dict[str, Any]) -> Path:
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_jsonl_rows_have_numbers_and_lines(tmp_path: Path) -> None:
    rows = read(written(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n{"prompt": null, "seed": 7}'))
    assert [(row.number, row.place, row.values) for row in rows] == [
        (1, "line 1", {"prompt": "a"}),
        (2, "line 4", {"prompt": None, "seed": 7}),
    ]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "it is not JSON: Expecting property name"),
        (b"[1]", "it is not a JSON object"),
        (b'{"seed": NaN}', "it holds NaN, which is not JSON"),
        (b'{"prompt": "a", "prompt": "b"}', "it names 'prompt' twice"),
        (b'{"prompt": "\xff"}', "it is not valid Unicode text: invalid start byte"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b"\xff\xfe{\x00", "it is not valid Unicode text"),
    ],
)
def test_jsonl_damaged_line_is_that_rows_problem(tmp_path: Path, line: bytes, problem: str) -> None:
    first, second = read(written(tmp_path / "a.jsonl", line + b'\n{"prompt": "b"}\n'))
    assert first.problem is not None and first.problem.startswith(problem)
    assert (second.number, second.values, second.problem) == (2, {"prompt": "b"}, None)


@pytest.mark.parametrize("rest", [0, 1, 63, 64, 65, 500])
def test_jsonl_line_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rest: int) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 64)
    first, second = read(written(tmp_path / "a.jsonl", b" " * (64 + rest) + b'\n{"prompt": "b"}\n'))
    assert first.problem == "it is longer than 64 bytes"
    assert (second.place, second.values) == ("line 2", {"prompt": "b"})


def test_csv_cells_are_text_and_quoted_line_ends_stay(tmp_path: Path) -> None:
    content = '\ufeffid, prompt ,seed\r\n1,"a ""b"",\r\nc",7\r\n\r\n2,"d",\r\n'
    rows = read(written(tmp_path / "a.CSV", content.encode()))
    assert [(row.number, row.place, row.values) for row in rows] == [
        (1, "line 2", {"id": "1", "prompt": 'a "b",\r\nc', "seed": "7"}),
        (2, "line 5", {"id": "2", "prompt": "d", "seed": None}),
    ]


def test_csv_row_of_another_length_is_that_rows_problem(tmp_path: Path) -> None:
    rows = read(written(tmp_path / "a.csv", b"prompt,seed\na\nb,1,2\nc,3\n"))
    assert [row.problem for row in rows] == ["it has 1 cells; the header names 2", "it has 3 cells; the header names 2", None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no header"),
        (b"\xef\xbb\xbf", "has no header"),
        (b"\nprompt\na\n", "has no header"),
        (b"prompt,prompt\n", "has the column 'prompt' twice"),
        (b'prompt\na\n"b\nc\n', "is malformed CSV near line 4: unexpected end of data; quote"),
        (b'prompt\n"a"b\n', "is malformed CSV near line 2: ',' expected after '\"'; quote"),
    ],
)
def test_csv_without_clear_rows_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=f"a.csv' {message}"):
        read(written(tmp_path / "a.csv", content))


def test_csv_cell_that_is_long_is_read(tmp_path: Path) -> None:
    """The csv module refuses cells of more than 131,072 characters, and so the whole file was refused."""
    before = csv.field_size_limit()
    long = "a" * 1_000_001
    rows = read(written(tmp_path / "a.csv", f'prompt,seed\n{long},1\n"b\n{long}",2\nc,3\n'.encode()))
    assert [row.values["prompt"] for row in rows] == [long, f"b\n{long}", "c"] and csv.field_size_limit() == before


def test_csv_line_that_is_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 64)
    with pytest.raises(RequestError, match=r"a\.csv': line 3 is longer than 64 characters"):
        read(written(tmp_path / "a.csv", b"prompt\n" + b"a" * 62 + b"\n" + b"b" * 64 + b"\n"))


def test_parquet_rows_are_python_values(tmp_path: Path) -> None:
    columns = {"prompt": ["a", None], "seed": pyarrow.array([1, 2], "uint64"), "images": [["x.png"], None]}
    rows = read(write_parquet(tmp_path / "a.parquet", columns))
    assert [(row.place, row.values) for row in rows] == [
        ("row 1", {"prompt": "a", "seed": 1, "images": ["x.png"]}),
        ("row 2", {"prompt": None, "seed": 2, "images": None}),
    ]


def test_parquet_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"prompt": ["a"] * 1000})
    content = path.read_bytes()
    for cut in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(RequestError, match=r"a\.parquet' can't be read as parquet"):
            read(path)


def test_parquet_column_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["prompt", "prompt"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(RequestError, match="has the column 'prompt' twice"):
        read(tmp_path / "a.parquet")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from omnigen2_rt.runtime.errors import OmniGen2Error

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OmniGen2Error, match=r'needs pyarrow: pip install "omnigen2-rt\[parquet\]"'):
        read(written(tmp_path / "a.parquet", b""))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "can't be read: No such file or directory"),
        (lambda path: path.mkdir(), "can't be read: Is a directory"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_file_that_is_none_is_refused(tmp_path: Path, ending: str, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / f"a.{ending}"
    make(path)
    with pytest.raises(RequestError, match=message):
        read(path)


@pytest.mark.parametrize("name", ["a.txt", "a", "jsonl", "a.json"])
def test_file_of_an_unknown_kind_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match=r"must end in \.jsonl, \.ndjson, \.csv, \.parquet"):
        format_of(Path(name))
