"""Cells as the fields of a request: text as CSV has it, values as JSON and parquet have them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.batch.cells import COLUMNS, check_columns, fields_of_text, request_of
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.request import Request
from omnigen2_rt.runtime.step_caches import TaylorSeer, TeaCache

FOLDER = Path("/rows")


def test_columns_are_the_fields_of_a_request_and_two_more() -> None:
    """A new field of Request needs an entry here, and a rule of how text stands for its values."""
    assert {*COLUMNS} == {field.name for field in dataclasses.fields(Request)} | {"id", "tea_threshold"}


def test_column_that_is_unknown_is_refused_with_all_that_there_are() -> None:
    with pytest.raises(RequestError, match=r"^line 3: there is no column 'promt'; there are id, prompt, negative_prompt, images"):
        check_columns(["prompt", "promt"], "line 3")


TEXTS: list[tuple[str, str, Any]] = [
    ("prompt", " a ", " a "),
    ("steps", " 7 ", 7),
    ("steps", "7.0", 7),
    ("seed", "18446744073709551615", 2**64 - 1),
    ("height_px", "1e2", 100),
    ("text_guidance", "2.5", 2.5),
    ("image_guidance", "+.5", 0.5),
    ("cfg_range", "0;0.6", (0.0, 0.6)),
    ("cfg_range", "[0, 0.6]", (0.0, 0.6)),
    ("timesteps", "0; 0.3;0.6", (0.0, 0.3, 0.6)),
    ("align_size", "TRUE", True),
    ("align_size", "false", False),
    ("scheduler", "dpmsolver++ ", "dpmsolver++"),
    ("cache", "taylorseer", TaylorSeer()),
    ("cache", "none", None),
    ("images", "a.png", (FOLDER / "a.png",)),
    ("images", "a.png; /b/c d.png", (FOLDER / "a.png", Path("/b/c d.png"))),
    ("images", '["a;b.png", "[c].png"]', (FOLDER / "a;b.png", FOLDER / "[c].png")),
]


@pytest.mark.parametrize(("column", "text", "value"), TEXTS)
def test_text_stands_for_a_value_of_its_columns_type(column: str, text: str, value: Any) -> None:
    request, _ = request_of(fields_of_text({"prompt": "", column: text}), FOLDER)
    assert getattr(request, column) == value
    assert type(getattr(request, column)) is type(value)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"steps": "many"}, "steps='many' is not a number"),
        ({"steps": "7.5"}, "steps=7.5 is not a whole number"),
        ({"steps": "1_000"}, "steps='1_000' is not a number"),
        ({"steps": "0"}, "steps=0 is below the fewest steps, 1"),
        ({"seed": "-1"}, "seed=-1 is below the smallest seed, 0"),
        ({"seed": "9" * 31}, "seed=.* is above the largest allowed"),
        ({"text_guidance": "nan"}, "text_guidance='nan' is not a number"),
        ({"text_guidance": "1e999"}, "text_guidance=inf is not a finite number"),
        ({"text_guidance": "2,5"}, "text_guidance='2,5' is not a number"),
        ({"cfg_range": "0"}, r"cfg_range=\(0.0,\) needs two numbers"),
        ({"timesteps": "['a']"}, r"""timesteps="\['a'\]" is not a list: write a;b or \["a", "b"\]"""),
        ({"align_size": "yes"}, "align_size='yes' is not true or false"),
        ({"images": "a.png;"}, r"images\[1\]='' is not the name of a picture"),
        ({"images": "[1]"}, r"images\[0\]=1 is not the name of a picture"),
        ({"images": "[" * 100_000}, "images='.*' is not a list"),
        ({"cache": "tea"}, "cache='tea' is unknown; choose teacache, taylorseer or none"),
        ({"tea_threshold": "0.1"}, "tea_threshold belongs to cache=teacache"),
        ({"prompt": "a\udcff"}, "prompt is not valid Unicode text at character 1"),
        ({"latents": "none.npy"}, "latents 'none.npy' can't be read as a .npy file: No such file"),
    ],
)
def test_text_that_stands_for_no_value_is_refused(cells: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        request_of(fields_of_text({"prompt": "", **cells}), FOLDER)


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"steps": 7.0}, "steps", 7),
        ({"seed": np.int64(7)}, "seed", 7),
        ({"seed": float(2**60)}, "seed", 2**60),
        ({"text_guidance": 2}, "text_guidance", 2.0),
        ({"text_guidance": np.float32(2.5)}, "text_guidance", 2.5),
        ({"images": "a.png"}, "images", (FOLDER / "a.png",)),
        ({"images": []}, "images", ()),
        ({"cache": "teacache", "tea_threshold": 0.2}, "cache", TeaCache(threshold=0.2)),
    ],
)
def test_value_of_a_table_is_taken(values: dict[str, Any], field: str, expected: Any) -> None:
    request, _ = request_of({"prompt": "", **values}, FOLDER)
    assert getattr(request, field) == expected


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": float("nan")}, "steps=nan is not a whole number"),
        ({"steps": True}, "steps=True is not a whole number"),
        ({"steps": "7"}, "steps='7' is not a whole number"),
        ({"prompt": 7}, r"prompt must be text \(str\), not int"),
        ({"text_guidance": float("nan")}, "text_guidance=nan is not a finite number"),
        ({"images": {"bytes": b""}}, r"images=\{'bytes': b''\} is not a list of pictures' names"),
        ({"images": [b"x"]}, r"images\[0\]=b'x' is not the name of a picture"),
        ({"latents": 7}, "latents=7 is not the name of a .npy file"),
        ({"cache": ["teacache"]}, r"cache=\['teacache'\] is unknown"),
    ],
)
def test_value_of_a_wrong_type_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{message}"):
        request_of({"prompt": "", **values}, FOLDER)


def test_row_without_a_prompt_is_refused() -> None:
    with pytest.raises(RequestError, match="^prompt is missing"):
        request_of({"seed": 7}, FOLDER)


def test_latents_are_read_beside_the_rows(tmp_path: Path) -> None:
    noise = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.save(tmp_path / "noise.npy", noise)
    request, name = request_of({"prompt": "", "latents": "noise.npy"}, tmp_path)
    assert name == "noise.npy" and request.latents is not None
    np.testing.assert_array_equal(request.latents, noise)
