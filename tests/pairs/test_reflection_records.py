"""Records of reflections: their lines, what becomes training data, and files that were cut off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.pairs.reflection_records import ReflectionRecords
from omnigen2_rt.runtime.chat.reflection import Reflection, Round, best_round
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.request import Request, Result
from tests.commands.command import Command

SMALL = ("--steps", 1, "--backend", "ort-cpu", "--precision", "fp32", "--threads", 1)


def round_of(shade: int, grade: float | None, critique: str = "", edit: str = "") -> Round:
    image = Image.new("RGB", (8, 8), (shade, shade, shade))
    result = Result(images=[image], latents=np.zeros(1, np.float32), steps=(), timings={}, request=Request(prompt=""))
    return Round(result=result, grade=grade, critique=critique, edit=edit)


def reflection_of(*rounds: Round) -> Reflection:
    return Reflection(rounds=rounds, best=best_round(list(rounds)))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def shade_of(name: str) -> int:
    with Image.open(name) as picture:
        return int(picture.getpixel((0, 0))[0])  # type: ignore[index]


def begun(tmp_path: Path) -> ReflectionRecords:
    records = ReflectionRecords(path=tmp_path / "r.jsonl")
    records.begin()
    return records


def test_record_of_a_correction_names_both_pictures_and_what_was_said(tmp_path: Path) -> None:
    records = begun(tmp_path)
    records.add(reflection_of(round_of(10, 5, "no, red", "make it blue"), round_of(20, 10, "yes")), "blue", "bundle", {"seed": 3})
    first, second = lines_of(records.path)
    assert (shade_of(first["picture"]), shade_of(first["result"])) == (10, 20)
    said = {name: first[name] for name in ("prompt", "round", "grade", "critique", "edit", "result_grade", "judge", "best")}
    assert said == {
        "prompt": "blue", "round": 0, "grade": 5, "critique": "no, red", "edit": "make it blue", "result_grade": 10,
        "judge": "bundle", "best": False,
    }  # fmt: skip
    assert (second["best"], second["result"], second["result_grade"]) == (True, None, None)
    assert first["parameters"] == {"seed": 3}


def test_training_row_of_a_correction_has_the_keys_that_the_training_reads(tmp_path: Path) -> None:
    records = begun(tmp_path)
    records.add(reflection_of(round_of(10, 5, "no", "make it blue"), round_of(20, 10)), "blue", "bundle", {})
    [row] = lines_of(records.training_path)
    assert set(row) == {"task_type", "instruction", "input_images", "output_image"}
    assert (row["task_type"], row["instruction"]) == ("reflect", "make it blue")
    assert [shade_of(name) for name in (*row["input_images"], row["output_image"])] == [10, 20]
    assert all(Path(name).is_absolute() for name in (*row["input_images"], row["output_image"]))


@pytest.mark.parametrize("grades", [(5, 5), (10, 5), (None, 10), (5, None)])
def test_correction_that_is_not_graded_higher_is_no_training_row(
    tmp_path: Path, grades: tuple[float | None, float | None]
) -> None:
    records = begun(tmp_path)
    records.add(reflection_of(round_of(10, grades[0], "no", "x"), round_of(20, grades[1])), "p", "bundle", {})
    assert lines_of(records.training_path) == []
    assert len(lines_of(records.path)) == 2


def test_line_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    records = begun(tmp_path)
    records.add(reflection_of(round_of(1, 1)), "first", "bundle", {})
    with records.path.open("ab") as file:
        file.write(b'{"round": 0, "pict')
    records.add(reflection_of(round_of(2, 2)), "second", "bundle", {})
    assert [line["prompt"] for line in lines_of(records.path)] == ["first", "second"]


def test_last_line_of_a_user_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(b'{"mine": 1}')
    records = begun(tmp_path)
    assert path.read_bytes() == b'{"mine": 1}'
    records.add(reflection_of(round_of(1, 1)), "first", "bundle", {})
    assert [line.get("mine", line.get("prompt")) for line in lines_of(path)] == [1, "first"]


def test_file_of_a_user_that_ends_in_half_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("my notes")
    with pytest.raises(RequestError, match="its last line has no line end and was not written by this program"):
        begun(tmp_path)
    assert (tmp_path / "r.jsonl").read_text() == "my notes"


def test_cancelled_reflection_leaves_no_line(tmp_path: Path) -> None:
    records = begun(tmp_path)
    result = Result(images=[], latents=np.zeros(1, np.float32), steps=(), timings={}, request=Request(prompt=""))
    records.add(Reflection(rounds=(Round(result=result, grade=None),), best=0), "p", "bundle", {})
    assert records.path.read_bytes() == records.training_path.read_bytes() == b""


@pytest.mark.parametrize(("name", "said"), [("r.txt", "must end in .jsonl"), ("missing/r.jsonl", "can't be written")])
def test_record_that_cannot_be_written_is_refused_before_anything_is_drawn(
    command: Command, tmp_path: Path, name: str, said: str
) -> None:
    error = command.fails("reflect", "a red square", "--record", tmp_path / name, "--out", tmp_path / "x.png", *SMALL)
    assert said in error
    assert not list(tmp_path.iterdir())


def test_record_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(RequestError, match="can't be written"):
        begun(tmp_path)


def test_reflect_command_appends_its_rounds(command: Command, tmp_path: Path) -> None:
    words = ("reflect", "a red square on a blue background", "--record", tmp_path / "r.jsonl", "--out", tmp_path / "x.png")
    printed = json.loads(command(*words, "--rounds", 1, "--json", *SMALL).out)
    assert command(*words, "--rounds", 1, "--seed", 1, *SMALL).code == 0
    lines = lines_of(tmp_path / "r.jsonl")
    first = [line for line in lines if line["parameters"]["seed"] == 0]
    assert [{name: line[name] for name in ("grade", "critique", "edit", "best")} for line in first] == printed["rounds"]
    assert {line["parameters"]["seed"] for line in lines} == {0, 1}
    assert first[0]["parameters"]["prompt"] == "a red square on a blue background"
