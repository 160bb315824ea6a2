"""Batches of a pipeline's double: what is drawn, what is kept, what fails, and what the manifest says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from omnigen2_rt.batch.outputs import FolderOutput
from omnigen2_rt.runtime.errors import BackendError, RequestError
from omnigen2_rt.runtime.images.png import encode_png, read_parameters
from omnigen2_rt.runtime.request import Request
from tests.batch.doubles import FakePipeline, manifest_of, pictures_in, run, write_jsonl


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_jsonl(
        tmp_path / "rows.jsonl",
        {"id": "a", "prompt": "one", "seed": 7},
        {"id": "b", "prompt": "two", "steps": 0},
        {"id": "c", "prompt": "three", "images_per_prompt": 2},
    )


def test_batch_draws_rows_and_reports_bad_ones(rows: Path, tmp_path: Path) -> None:
    pipeline = FakePipeline()
    progress, records = run(rows, tmp_path / "out", pipeline)
    assert (progress.total, progress.drawn, progress.kept, progress.failed) == (3, 2, 0, 1)
    assert pipeline.prompts == ["one", "three"]
    assert [*pictures_in(tmp_path / "out")] == ["a.png", "c-0.png", "c-1.png"]
    assert [record.error for record in records] == [None, "steps=0 is below the fewest steps, 1", None]


def test_manifest_has_a_line_for_each_row(rows: Path, tmp_path: Path) -> None:
    run(rows, tmp_path / "out", FakePipeline())
    first, second, third = manifest_of(tmp_path / "out")
    assert (first["row"], first["id"], first["files"], first["seed"], first["error"]) == (1, "a", ["a.png"], 7, None)
    assert first["sizes_bytes"] == [(tmp_path / "out" / "a.png").stat().st_size] and first["seconds"] >= 0
    assert (second["row"], second["id"], second["files"], second["seconds"], second["parameters"]) == (2, "b", [], None, None)
    assert third["files"] == ["c-0.png", "c-1.png"]
    kept = read_parameters(tmp_path / "out" / "c-1.png")
    assert kept == {**third["parameters"], "index": 1} and kept["row_digest"] == third["digest"]
    assert (kept["prompt"], kept["bundle"], kept["backend"], kept["precision"]) == ("three", "nano", "fake", "fp32")


def test_batch_that_is_run_again_draws_nothing_and_says_nothing_new(rows: Path, tmp_path: Path) -> None:
    run(rows, tmp_path / "out", FakePipeline())
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}
    pipeline = FakePipeline()
    progress, _ = run(rows, tmp_path / "out", pipeline)
    assert (progress.drawn, progress.kept, progress.failed) == (0, 2, 1)
    assert pipeline.prompts == []
    assert before == {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out").iterdir()}


def damage_nothing(folder: Path) -> None:
    pass


def lose_a_picture(folder: Path) -> None:
    (folder / "c-1.png").unlink()


def cut_a_picture(folder: Path) -> None:
    content = (folder / "c-1.png").read_bytes()
    (folder / "c-1.png").write_bytes(content[:-10])


def empty_a_picture(folder: Path) -> None:
    (folder / "c-1.png").write_bytes(b"")


def change_a_byte(folder: Path) -> None:
    content = bytearray((folder / "c-1.png").read_bytes())
    content[-20] ^= 1
    (folder / "c-1.png").write_bytes(content)


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.jsonl").unlink()


def cut_the_manifest(folder: Path) -> None:
    content = (folder / "manifest.jsonl").read_bytes()
    (folder / "manifest.jsonl").write_bytes(content[:-20])


@pytest.mark.parametrize(
    ("damage", "drawn"),
    [
        (damage_nothing, []),
        (lose_a_picture, ["three"]),
        (cut_a_picture, ["three"]),
        (empty_a_picture, ["three"]),
        (change_a_byte, ["three"]),
        (lose_the_manifest, []),
        (cut_the_manifest, []),
    ],
)
def test_batch_that_goes_on_draws_what_is_not_whole(rows: Path, tmp_path: Path, damage: Any, drawn: list[str]) -> None:
    out = tmp_path / "out"
    run(rows, out, FakePipeline())
    whole, manifest = pictures_in(out), manifest_of(out)
    damage(out)
    pipeline = FakePipeline()
    run(rows, out, pipeline)
    assert pipeline.prompts == drawn
    assert pictures_in(out) == whole
    last = {line["row"]: {**line, "seconds": None} for line in manifest_of(out)}
    assert [*last.values()] == [{**line, "seconds": None} for line in manifest]


def test_row_that_changed_is_drawn_again(rows: Path, tmp_path: Path) -> None:
    run(rows, tmp_path / "out", FakePipeline())
    write_jsonl(rows, {"id": "a", "prompt": "one", "seed": 8}, {"id": "c", "prompt": "three", "images_per_prompt": 2})
    pipeline = FakePipeline()
    progress, _ = run(rows, tmp_path / "out", pipeline)
    assert pipeline.prompts == ["one"] and progress.kept == 1
    assert read_parameters(tmp_path / "out" / "a.png")["seed"] == 8
    assert [line["row"] for line in manifest_of(tmp_path / "out")] == [1, 2, 3, 1, 2]


def test_row_that_moved_has_its_number_in_the_manifest(rows: Path, tmp_path: Path) -> None:
    """The manifest went on saying the number of the run that drew the row."""
    run(rows, tmp_path / "out", FakePipeline())
    first = {line["id"]: line for line in manifest_of(tmp_path / "out")}
    lines = rows.read_text(encoding="utf-8").splitlines(keepends=True)
    rows.write_text("".join([*lines[1:], lines[0]]), encoding="utf-8")
    pipeline = FakePipeline()
    _, records = run(rows, tmp_path / "out", pipeline)
    last = {line["id"]: line for line in manifest_of(tmp_path / "out")}
    numbers = {"b": 1, "c": 2, "a": 3}
    assert pipeline.prompts == [] and {record.id: record.row for record in records} == numbers
    assert last == {name: {**first[name], "row": number} for name, number in numbers.items()}
    count = len(manifest_of(tmp_path / "out"))
    run(rows, tmp_path / "out", FakePipeline())
    assert len(manifest_of(tmp_path / "out")) == count == 6


def test_other_bundle_draws_everything_again(rows: Path, tmp_path: Path) -> None:
    run(rows, tmp_path / "out", FakePipeline())
    pipeline = FakePipeline()
    run(rows, tmp_path / "out", pipeline, bundle="1" * 64)
    assert pipeline.prompts == ["one", "three"]


def test_input_image_that_changed_is_drawn_again(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "red").save(tmp_path / "in.png")
    rows = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a", "images": "in.png"})
    run(rows, tmp_path / "out", FakePipeline())
    Image.new("RGB", (16, 16), "blue").save(tmp_path / "in.png")
    pipeline = FakePipeline()
    run(rows, tmp_path / "out", pipeline)
    assert pipeline.prompts == ["a"]


def test_row_that_failed_is_tried_again(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a"}, {"prompt": "b"})

    def refuse(request: Request) -> None:
        if request.prompt == "a":
            raise RequestError("not now")

    pipeline = FakePipeline(refuse)
    assert run(rows, tmp_path / "out", pipeline)[0].failed == 1 and pipeline.closed == 0
    assert run(rows, tmp_path / "out", FakePipeline())[0].failed == 0
    assert [(line["row"], line["error"]) for line in manifest_of(tmp_path / "out")] == [(1, "not now"), (2, None), (1, None)]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BackendError("the engine failed"), "the engine failed"),
        (MemoryError("no memory"), "MemoryError: no memory"),
        (ValueError("a fault"), "ValueError: a fault"),
    ],
)
def test_engine_that_fails_is_opened_anew_for_the_next_row(tmp_path: Path, error: Exception, message: str) -> None:
    def fail(request: Request) -> None:
        if request.prompt == "a":
            raise error

    rows = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a"}, {"prompt": "b"})
    pipeline = FakePipeline(fail)
    progress, records = run(rows, tmp_path / "out", pipeline)
    assert (progress.drawn, progress.failed, pipeline.closed, records[0].error) == (1, 1, 1, message)


@pytest.mark.parametrize("name", ["a.png", "c-1.png"])
def test_picture_of_somebody_else_is_not_replaced(rows: Path, tmp_path: Path, name: str) -> None:
    """A row whose id is the name of its input image would have been drawn over it."""
    out = tmp_path / "out"
    out.mkdir()
    Image.new("RGB", (16, 16)).save(out / name)
    mine = (out / name).read_bytes()
    _, records = run(rows, out, FakePipeline())
    errors = [record.error for record in records if record.id == name[0]]
    reason = "is there and was not drawn by a batch, or was changed since: move it, or give the row another id"
    assert errors == [f"'{name}' {reason}"]
    assert (out / name).read_bytes() == mine


def test_picture_that_was_retouched_is_not_replaced_when_its_row_changes(tmp_path: Path) -> None:
    """Its editor kept the file's text, with the row's digest."""
    rows, out = write_jsonl(tmp_path / "rows.jsonl", {"id": "a", "prompt": "one"}), tmp_path / "out"
    run(rows, out, FakePipeline())
    kept = read_parameters(out / "a.png")
    assert kept is not None
    mine = encode_png(Image.effect_noise((16, 16), 50).convert("RGB"), kept)
    (out / "a.png").write_bytes(mine)
    assert run(rows, out, FakePipeline())[0].kept == 1
    write_jsonl(rows, {"id": "a", "prompt": "two"})
    for _ in range(2):
        assert run(rows, out, FakePipeline())[0].failed == 1 and (out / "a.png").read_bytes() == mine
    (out / "a.png").unlink()
    assert run(rows, out, FakePipeline())[0].drawn == 1


def test_file_that_appears_while_its_row_is_drawn_is_not_replaced(tmp_path: Path) -> None:
    rows, out = write_jsonl(tmp_path / "rows.jsonl", {"id": "a", "prompt": "one"}), tmp_path / "out"
    progress, _ = run(rows, out, FakePipeline(lambda request: (out / "a.png").write_bytes(b"mine")))
    assert progress.failed == 1 and (out / "a.png").read_bytes() == b"mine"


def test_folder_in_a_pictures_place_is_that_rows_problem(rows: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "a.png").mkdir(parents=True)
    progress, records = run(rows, tmp_path / "out", FakePipeline())
    assert progress.drawn == 1 and "can't be read: Is a directory" in str(records[0].error)


@pytest.mark.parametrize("content", ['{"prompt": "mine"}\n', '{"prompt": "mine"}', "mine", '[{"row": 1}]\n'])
def test_manifest_of_somebody_else_is_refused_and_kept(rows: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").write_text(content)
    pipeline = FakePipeline()
    with pytest.raises(RequestError, match="is no manifest of a batch: name another output"):
        run(rows, out, pipeline)
    assert (out / "manifest.jsonl").read_text() == content and pipeline.prompts == []


@pytest.mark.parametrize("damaged", [b"\xff\n", b"{}\n", b'{"row": 1, "id": 2, "files": [], "sizes_bytes": []}\n'])
def test_damaged_line_of_a_manifest_is_passed_over(rows: Path, tmp_path: Path, damaged: bytes) -> None:
    run(rows, tmp_path / "out", FakePipeline())
    manifest = tmp_path / "out" / "manifest.jsonl"
    manifest.write_bytes(damaged + manifest.read_bytes())
    assert run(rows, tmp_path / "out", FakePipeline())[0].kept == 2


def test_output_that_is_full_stops_the_batch_and_the_next_run_goes_on(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = FolderOutput.write

    def without_room(self: FolderOutput, name: str, content: bytes) -> None:
        if name == "c-1.png":
            raise RequestError("can't write 'c-1.png': No space left on device")
        write(self, name, content)

    monkeypatch.setattr(FolderOutput, "write", without_room)
    with pytest.raises(RequestError, match="No space left"):
        run(rows, tmp_path / "out", FakePipeline())
    monkeypatch.undo()
    pipeline = FakePipeline()
    run(rows, tmp_path / "out", pipeline)
    assert pipeline.prompts == ["three"] and len(pictures_in(tmp_path / "out")) == 3


def test_interrupted_drawing_leaves_nothing_of_its_row(rows: Path, tmp_path: Path) -> None:
    def interrupt(request: Request) -> None:
        if request.prompt == "three":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(rows, tmp_path / "out", FakePipeline(interrupt))
    assert [*pictures_in(tmp_path / "out")] == ["a.png"]
    assert [line["row"] for line in manifest_of(tmp_path / "out")] == [1, 2]


def test_bad_row_without_an_id_is_written_down_once(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n{\n{"prompt": "b", "id": "../x"}\n')
    for _ in range(2):
        run(rows, tmp_path / "out", FakePipeline())
    lines = manifest_of(tmp_path / "out")
    assert [(line["row"], line["id"]) for line in lines] == [(1, "0000001"), (2, None), (3, None)]
    assert json.dumps(lines).count("it is not JSON") == 1
