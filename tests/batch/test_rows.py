"""Rows as drawings: ids that are safe file names, ids that occur twice, digests that tell changed rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from omnigen2_rt.batch.rows import BadRow, Job, RowFile, file_names, row_id
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.step_caches import TaylorSeer, TeaCache
from tests.batch.doubles import BUNDLE, write_jsonl


def rows_of(path: Path, bundle: str = BUNDLE, **defaults: str) -> list[Job | BadRow]:
    return list(RowFile.open(path, defaults).rows(bundle))


def digest_of(tmp_path: Path, bundle: str = BUNDLE, **cells: Any) -> str:
    (row,) = rows_of(write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a", **cells}), bundle)
    assert isinstance(row, Job), row
    return row.digest


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "0000012"),
        ("a", "a"),
        (7, "7"),
        (7.0, "7"),
        (np.str_("a"), "a"),
        ("a b-c_d.e(1),+=@~#%&'!$", "a b-c_d.e(1),+=@~#%&'!$"),
        ("猫-é-🐱", "猫-é-🐱"),
        ("e\u0301", "e\u0301"),
        ("a" * 200, "a" * 200),
        ("console", "console"),
    ],
)
def test_id_that_is_a_safe_name_stays(value: Any, name: str) -> None:
    assert row_id(value, 12) == name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("", "has 0 bytes; 1 to 200 are allowed"),
        ("a" * 201, "has 201 bytes"),
        ("猫" * 67, "has 201 bytes"),
        ("../x", "holds a character that file names can't"),
        ("a/b", "holds a character"),
        ("a\\b", "holds a character"),
        ("/etc/x", "holds a character"),
        ("C:x", "holds a character"),
        ("a\0", "holds a character"),
        ("a\nb", "holds a character"),
        ("a\u202eb", "holds a character"),
        ("..", "begins or ends with a dot"),
        (".hidden", "begins or ends with a dot"),
        (" a", "begins or ends with a dot or a space"),
        ("a.", "begins or ends with a dot"),
        ("NUL", "is the name of a device"),
        ("com1.x", "is the name of a device"),
    ],
)
def test_id_that_is_no_safe_name_is_refused(value: str, message: str) -> None:
    with pytest.raises(RequestError, match=f"^id=.* {message}"):
        row_id(value, 1)


@pytest.mark.parametrize("value", [7.5, float("nan"), True, b"a", ["a"]])
def test_id_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(RequestError, match=r"^id must be text \(str\), not "):
        row_id(value, 1)


def test_file_names_of_several_pictures_are_those_of_generate() -> None:
    assert file_names("a", 1) == ("a.png",)
    assert file_names("a", 3) == ("a-0.png", "a-1.png", "a-2.png")


def test_numbers_as_ids_sort(tmp_path: Path) -> None:
    rows = rows_of(write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a"} for _ in range(12))))
    assert [row.id for row in rows] == sorted(str(row.id) for row in rows) and rows[11].id == "0000012"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"id": "a"}, {"id": "a"}, "the id 'a' is that of line 1 already: give each row an id of its own"),
        ({"id": "A"}, {"id": "a"}, "the id 'a' is that of line 1 already"),
        ({"id": "é"}, {"id": "e\u0301"}, "the id 'e\u0301' is that of line 1 already"),
        ({"id": 2}, {"id": "2"}, "the id '2' is that of line 1 already"),
        ({"id": "0000002"}, {}, "the id '0000002' is that of line 1 already"),
        ({"id": "a", "images_per_prompt": 2}, {"id": "a-1"}, "the file 'a-1.png' is that of line 1 already"),
        ({"id": "a", "images_per_prompt": 2}, {"id": "a"}, "the id 'a' is that of line 1 already"),
        ({"id": "a", "steps": 0}, {"id": "a"}, "the id 'a' is that of line 1 already"),
    ],
)
def test_id_that_occurs_twice_is_the_later_rows_problem(
    tmp_path: Path, first: dict[str, Any], second: dict[str, Any], message: str
) -> None:
    rows = rows_of(write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a", **first}, {"prompt": "b", **second}, {"prompt": "c"}))
    assert isinstance(rows[1], BadRow) and rows[1].problem.startswith(message)
    assert isinstance(rows[2], Job)


def test_bad_row_says_where_it_stands(tmp_path: Path) -> None:
    rows = rows_of(write_jsonl(tmp_path / "rows.jsonl", {"id": "a", "steps": 0, "prompt": "a"}, {"id": "../x", "prompt": "a"}))
    assert [(row.number, row.place, row.id) for row in rows] == [(1, "line 1", "a"), (2, "line 2", None)]
    assert isinstance(rows[0], BadRow) and rows[0].problem == "steps=0 is below the fewest steps, 1"


@pytest.mark.parametrize("name", ["none.png", "a\0b.png", "x" * 300])
def test_row_whose_image_is_missing_is_bad(tmp_path: Path, name: str) -> None:
    (row,) = rows_of(write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a", "images": [name]}))
    assert isinstance(row, BadRow) and "image file" in row.problem


def test_digest_tells_everything_that_decides_the_picture(tmp_path: Path) -> None:
    for name, colour in (("red.png", "red"), ("copy.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (16, 16), colour).save(tmp_path / name)
    np.save(tmp_path / "noise.npy", np.zeros((1, 1, 4, 4), np.float32))
    np.save(tmp_path / "other.npy", np.ones((1, 1, 4, 4), np.float32))
    others: list[dict[str, Any]] = [
        {}, {"prompt": "b"}, {"seed": 1}, {"steps": 20}, {"cfg_range": [0, 0.5]}, {"cache": "teacache"},
        {"cache": "teacache", "tea_threshold": 0.1}, {"images": "red.png"}, {"images": "blue.png"},
        {"images": ["red.png", "red.png"]}, {"latents": "noise.npy"}, {"latents": "other.npy"},
    ]  # fmt: skip
    digests = [digest_of(tmp_path, **cells) for cells in others] + [digest_of(tmp_path, bundle="1" * 64)]
    assert len({*digests}) == len(digests)
    assert digest_of(tmp_path, seed=0, steps=50.0, text_guidance=4, id="x", negative_prompt=None) == digests[0]
    assert digest_of(tmp_path, cache="teacache", tea_threshold=1) == digest_of(tmp_path, cache="teacache", tea_threshold=1.0)
    assert digest_of(tmp_path, images="copy.png") == digest_of(tmp_path, images="red.png")


def test_digest_follows_the_content_of_an_image(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    Image.new("RGB", (16, 16), "red").save(image)
    before = digest_of(tmp_path, images="a.png")
    Image.new("RGB", (16, 16), "tan").save(image)
    os.utime(image, ns=(1, 1))
    assert digest_of(tmp_path, images="a.png") != before


def test_default_is_for_rows_without_their_own(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a"}, {"prompt": "b", "steps": 3}, {"prompt": "c", "steps": None})
    rows = rows_of(path, steps="7", cfg_range="0;0.5")
    assert [row.request.steps for row in rows if isinstance(row, Job)] == [7, 3, 7]
    assert [row.request.cfg_range for row in rows if isinstance(row, Job)] == [(0.0, 0.5)] * 3


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"step": "7"}, "there is no column 'step'; there are id, prompt"),
        ({"steps": "0"}, "steps=0 is below the fewest steps, 1"),
        ({"steps": "x"}, "steps='x' is not a number"),
        ({"id": "x"}, "id can't have a default"),
    ],
)
def test_default_that_no_row_could_have_is_refused(tmp_path: Path, defaults: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        RowFile.open(write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a"}), defaults)


def test_default_threshold_is_for_the_rows_that_have_its_cache(tmp_path: Path) -> None:
    """A row with another cache, or with none, failed."""
    cells: list[dict[str, Any]] = [{}, {"cache": "none"}, {"cache": "taylorseer"}, {"tea_threshold": 0.3}]
    path = write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a", **each} for each in cells))
    rows = rows_of(path, cache="teacache", tea_threshold="0.2")
    caches = [row.request.cache if isinstance(row, Job) else row.problem for row in rows]
    assert caches == [TeaCache(threshold=0.2), None, TaylorSeer(), TeaCache(threshold=0.3)]
    rows = rows_of(write_jsonl(path, {"prompt": "a"}, {"prompt": "b", "cache": "teacache"}), tea_threshold="1")
    assert [row.request.cache if isinstance(row, Job) else row.problem for row in rows] == [None, TeaCache(threshold=1.0)]
    with pytest.raises(RequestError, match="threshold=-1.0 is out of range"):
        rows_of(path, tea_threshold="-1")


def test_empty_text_is_an_empty_cell_in_every_kind_of_file(tmp_path: Path) -> None:
    """JSONL drew an empty prompt, and took an empty name for a picture's; CSV said that the prompt was missing."""
    cells = {"id": "", "prompt": "", "images": "", "negative_prompt": "", "cache": ""}
    write_jsonl(tmp_path / "rows.jsonl", cells)
    (tmp_path / "rows.csv").write_text(f"{','.join(cells)}\n{',' * (len(cells) - 1)}\n")
    parquet.write_table(pyarrow.table({name: [cell] for name, cell in cells.items()}), tmp_path / "rows.parquet")
    for ending in ("jsonl", "csv", "parquet"):
        (row,) = rows_of(tmp_path / f"rows.{ending}")
        assert isinstance(row, BadRow) and (row.id, row.problem) == ("0000001", "prompt is missing or empty")
        (row,) = rows_of(tmp_path / f"rows.{ending}", prompt="", negative_prompt="red")
        assert isinstance(row, Job) and (row.request.prompt, row.request.negative_prompt) == ("", "red")


def test_prompt_that_is_too_long_is_that_rows_problem(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(f"prompt\n{'a' * 1_000_001}\nb\n")
    first, second = rows_of(tmp_path / "rows.csv")
    assert isinstance(first, BadRow) and first.problem == "prompt has 1000001 characters; at most 1000000 are read"
    assert isinstance(second, Job)


def test_column_that_is_unknown_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a"} for _ in range(9)), {"prompt": "a", "sed": 1})
    with pytest.raises(RequestError, match=r"^line 10: there is no column 'sed'; there are "):
        RowFile.open(path)


def test_header_with_an_unknown_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("promt,seed\na,1\n")
    with pytest.raises(RequestError, match=r"^'.*rows\.csv': there is no column 'promt'; there are id, prompt"):
        RowFile.open(tmp_path / "rows.csv")


@pytest.mark.parametrize(("name", "content"), [("a.jsonl", "\n\n"), ("a.csv", "prompt\n"), ("a.jsonl", "\ufeff")])
def test_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(RequestError, match="holds no rows"):
        RowFile.open(tmp_path / name)


def test_row_with_another_cell_that_is_wrong_keeps_its_id(tmp_path: Path) -> None:
    """CSV's texts were all converted before the id was looked at."""
    (tmp_path / "rows.csv").write_text("id,prompt,steps\n q ,x,zero\n", encoding="utf-8")
    (row,) = rows_of(tmp_path / "rows.csv")
    assert isinstance(row, BadRow) and (row.id, row.problem) == ("q", "steps='zero' is not a number")
