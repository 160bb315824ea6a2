"""Benchmarks' data as users have it: the hub's parquet, JSONL, JSON; with pictures and keys that are missing or unsafe."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from omnigen2_rt.evaluation.benchmarks import GEDIT, IMGEDIT, OMNICONTEXT
from omnigen2_rt.evaluation.samples import Sample, chosen_samples, safe_name
from omnigen2_rt.runtime.errors import OmniGen2Error, RequestError
from omnigen2_rt.runtime.images.loading import load_image


def png(colour: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(file, format="PNG")
    return file.getvalue()


def row(key: str, **changes: Any) -> dict[str, Any]:
    pictures = [{"bytes": png("red"), "path": None}, {"bytes": png("blue"), "path": "blue.png"}]
    facts = {"key": key, "task_type": "multi_object", "instruction": f"do {key}", "instruction_language": "en"}
    return {**facts, "input_images": pictures, **changes}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def test_parquet_of_the_hub_gives_samples_whose_pictures_are_files(tmp_path: Path) -> None:
    write_parquet(tmp_path / "hub" / "data" / "train-00000-of-00002.parquet", [row("b"), row("a", instruction_language="zh")])
    write_parquet(tmp_path / "hub" / "data" / "train-00001-of-00002.parquet", [row("c", task_type="scene_object")])
    write_parquet(tmp_path / "hub" / ".cache" / "train-00000-of-00002.parquet", [row("b")])
    samples = OMNICONTEXT.read(tmp_path / "hub", tmp_path / "inputs", "en")
    assert [(each.name, each.instruction) for each in samples] == [("multi_object/b", "do b"), ("scene_object/c", "do c")]
    assert [load_image(file).getpixel((0, 0)) for file in samples[0].inputs] == [(255, 0, 0), (0, 0, 255)]
    assert len([*(tmp_path / "inputs").iterdir()]) == 2
    assert OMNICONTEXT.read(tmp_path / "hub", tmp_path / "inputs", "en") == samples


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "a.parquet", [row("a")])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(OmniGen2Error, match=r'reading parquet needs pyarrow: pip install "omnigen2-rt\[parquet\]"'):
        OMNICONTEXT.read(tmp_path, tmp_path / "inputs", "en")


def test_damaged_parquet_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(RequestError, match="can't be read as parquet"):
        OMNICONTEXT.read(tmp_path, tmp_path / "inputs", "en")


def test_jsonl_names_pictures_beside_it(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png("red"))
    facts = {"key": 7, "task_type": "single_object", "instruction": "do", "input_images": ["pictures/a.png"]}
    write_lines(tmp_path / "data.jsonl", [facts])
    (sample,) = OMNICONTEXT.read(tmp_path, tmp_path / "inputs", "en")
    assert sample == Sample(key="7", task="single_object", instruction="do", inputs=(tmp_path / "pictures" / "a.png",))


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (["gone.png"], "the input picture 'gone.png' is missing"),
        (None, "an input picture is missing"),
        ([None], "an input picture is missing"),
        ([{"bytes": None, "path": "gone.png"}], "the input picture 'gone.png' is missing"),
        ([17], "an input picture is missing"),
        ([], "there are no input pictures"),
    ],
)
def test_picture_that_is_missing_is_a_problem_of_its_sample(pictures: object, said: str, tmp_path: Path) -> None:
    whole = {"key": "b", "task_type": "single_object", "instruction": "do", "input_images": ["b.png"]}
    (tmp_path / "b.png").write_bytes(png("red"))
    path = write_lines(tmp_path / "data.jsonl", [row("a", input_images=pictures), whole])
    broken, other = OMNICONTEXT.read(path, tmp_path / "inputs", "en")
    assert (broken.problem, broken.inputs, other.problem) == (said, (), None)


def test_gedit_takes_the_raw_picture_and_the_language(tmp_path: Path) -> None:
    facts = {"task_type": "text_change", "input_image": {"bytes": png("red")}, "input_image_raw": {"bytes": png("blue")}}
    rows = [
        {"key": "1", "instruction": "x", "instruction_language": "en", "Intersection_exist": True, **facts},
        {"key": "1", "instruction": "y", "instruction_language": "cn", "Intersection_exist": False, **facts},
    ]
    write_parquet(tmp_path / "a.parquet", rows)
    (english,), (chinese,) = (GEDIT.read(tmp_path, tmp_path / "inputs", language) for language in ("en", "cn"))
    assert (english.name, english.is_shared) == ("text_change/en/1", True)
    assert (chinese.name, chinese.is_shared, chinese.instruction) == ("text_change/cn/1", False, "y")
    assert load_image(english.inputs[0]).getpixel((0, 0)) == (0, 0, 255)


def test_gedit_takes_the_other_picture_where_the_raw_one_is_empty(tmp_path: Path) -> None:
    raw = {"bytes": None, "path": None}
    facts = {"key": "1", "task_type": "text_change", "instruction": "x", "input_image": {"bytes": png("red"), "path": "a.png"}}
    write_parquet(tmp_path / "a.parquet", [{**facts, "input_image_raw": raw}, {**facts, "key": "2", "input_image_raw": raw}])
    samples = GEDIT.read(tmp_path, tmp_path / "inputs", "en")
    assert [each.problem for each in samples] == [None, None] and load_image(samples[0].inputs[0]).size == (32, 32)


@pytest.mark.parametrize("language", ["en", "cn"])
def test_row_without_a_language_is_in_the_one_that_is_asked_for(language: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("red"))
    facts = {"task_type": "text_change", "instruction": "x", "input_image": "a.png"}
    rows = [{"key": "1", **facts}, {"key": "2", "instruction_language": None, **facts}]
    write_lines(tmp_path / "data.jsonl", [*rows, {"key": "3", "instruction_language": "de", **facts}])
    samples = GEDIT.read(tmp_path, tmp_path / "inputs", language)
    assert [(each.name, each.language) for each in samples] == [(f"text_change/{language}/{k}", language) for k in (1, 2)]


def test_imgedit_is_one_json_object(tmp_path: Path) -> None:
    (tmp_path / "animal").mkdir()
    (tmp_path / "animal" / "1.jpg").write_bytes(png("red"))
    rows = {"1082": {"id": "animal/1.jpg", "prompt": "smooth it", "edit_type": "adjust"}}
    (tmp_path / "basic_edit.json").write_text(json.dumps(rows))
    (sample,) = IMGEDIT.read(tmp_path, tmp_path / "inputs", "en")
    assert (sample.name, sample.instruction, sample.inputs) == ("adjust/1082", "smooth it", (tmp_path / "animal" / "1.jpg",))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "there are no samples"),
        ([{"key": "a"}], "line 1 of 'data.jsonl': task_type is None, not text"),
        ([row("a", input_images=[]), row("A", input_images=[])], "the sample 'multi_object/a' is there 2 times"),
        ([row("", input_images=[])], "the key '' or its subtask 'multi_object' is empty"),
        ([row("a", input_images=[], instruction=["do"])], "instruction is ['do'], not text"),
        (["no object"], "is not a JSON object"),
    ],
)
def test_broken_lines_say_what_is_wrong(lines: list[Any], said: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "data.jsonl", lines)
    with pytest.raises(RequestError) as raised:
        OMNICONTEXT.read(path, tmp_path / "inputs", "en")
    assert said in str(raised.value)


def test_folder_without_data_or_with_two_files_says_so(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="it holds none"):
        OMNICONTEXT.read(tmp_path, tmp_path / "inputs", "en")
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / name, [row("a", input_images=[])])
    with pytest.raises(RequestError, match="it holds 2 of them: name the file itself"):
        OMNICONTEXT.read(tmp_path, tmp_path / "inputs", "en")
    with pytest.raises(RequestError, match=r"must be a folder, or end in \.jsonl"):
        OMNICONTEXT.read(tmp_path / "data.csv", tmp_path / "inputs", "en")


@pytest.mark.parametrize("text", ["../../etc/passwd", "..", ".", "a/b", "a\\b", "c:d", "nul\0", "end.", "end ", "猫", "%2E"])
def test_name_of_any_key_is_a_file_in_its_folder(text: str, tmp_path: Path) -> None:
    name = safe_name(text)
    assert (tmp_path / name).parent == tmp_path and (tmp_path / name).resolve().parent == tmp_path.resolve()
    assert not set(name) & set('/\\:*?"<>|\0') and name[0] != "." and name[-1] not in ". "


def test_long_key_gets_a_name_that_filesystems_take_and_no_other_key_has(tmp_path: Path) -> None:
    texts = ["猫" * 90, "猫" * 91, "犬" * 90, "x" * 5000, "x" * 5001, "x" * 180]
    names = [safe_name(text) for text in texts]
    assert len({*names}) == len(names) and max(map(len, names)) <= 180 and names[-1] == "x" * 180
    for name in names:
        (tmp_path / f"{name}.png").touch()


def test_names_of_different_keys_differ() -> None:
    texts = ["..", "%2E.", ".", "a/b", "a%2Fb", "a b", "a+b", "end.", "end%2E"]
    assert len({safe_name(text) for text in texts}) == len(texts)


def test_samples_are_chosen_by_subtask_and_number() -> None:
    samples = [Sample(key=str(k), task=task, instruction="") for k in range(3) for task in ("a", "b")]
    assert [each.name for each in chosen_samples(samples, ["b"], 2)] == ["b/0", "b/1"]
    assert len(chosen_samples(samples, [], None)) == 6
    with pytest.raises(RequestError, match="there is no subtask 'c'; there are a, b"):
        chosen_samples(samples, ["c"], None)
