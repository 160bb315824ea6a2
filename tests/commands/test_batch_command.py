"""`omnigen2 batch`: the command with nano, killed and run again, stopped by Ctrl-C, and what it says."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from omnigen2_rt.batch import store as batch_store
from omnigen2_rt.batch.outputs import Output
from omnigen2_rt.commands.batch import SHOWN_PROBLEMS, duration
from omnigen2_rt.runtime.images.png import read_parameters
from omnigen2_rt.runtime.manifest import MANIFEST
from omnigen2_rt.runtime.pipeline import NANO
from tests.batch.doubles import manifest_of, pictures_in, write_jsonl
from tests.commands.command import Command
from tests.commands.processes import COMMAND, run, run_on_a_small_disk, start
from tests.exporter.merged_loras import nano_lora

QUICK = ("--threads", 1, "--backend", "ort-cpu", "--default", "steps=1", "--default", "width_px=32", "--default", "height_px=32")


def sixty_rows() -> list[dict[str, Any]]:
    """Sixty rows, two of them bad."""
    rows: list[dict[str, Any]] = [{"prompt": f"a circle, {number}", "seed": number} for number in range(60)]
    rows[10]["steps"] = 0
    rows[50]["id"] = "../50"
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = [*dict.fromkeys(name for row in rows for name in row)]
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.DictWriter(file, columns, lineterminator="\r\n")
        table.writeheader()
        for row in rows:
            table.writerow({name: ";".join(value) if isinstance(value, list) else value for name, value in row.items()})
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    columns = [*dict.fromkeys(name for row in rows for name in row)]
    parquet.write_table(pyarrow.table({name: [row.get(name) for row in rows] for name in columns}), path)
    return path


def test_formats_of_the_same_rows_give_the_same_bytes(command: Command, tmp_path: Path) -> None:
    command("generate", "a red circle", "--steps", 1, "--out", tmp_path / "in.png")
    rows = [
        {"id": "a", "prompt": 'a "red" circle,\nlarge', "seed": 7, "text_guidance": 2.5, "images_per_prompt": 2},
        {"id": "b", "prompt": " make it blue ", "images": ["in.png", "in.png"], "cache": "teacache", "steps": 2},
        {"id": "c", "prompt": "猫", "seed": 2**40, "width_px": 48},
    ]
    files = [
        write_jsonl(tmp_path / "rows.jsonl", *rows),
        write_csv(tmp_path / "rows.csv", rows),
        write_parquet(tmp_path / "rows.parquet", rows),
    ]
    for file in files:
        finished = command("batch", file, tmp_path / file.suffix[1:], *QUICK)
        assert (finished.code, finished.out) == (0, "3 rows: 3 drawn, 0 were there, 0 failed\n"), finished.err
    expected = pictures_in(tmp_path / "jsonl")
    assert [*expected] == ["a-0.png", "a-1.png", "b.png", "c.png"]
    assert pictures_in(tmp_path / "csv") == expected == pictures_in(tmp_path / "parquet")
    assert read_parameters(tmp_path / "csv" / "b.png")["images"] == ["in.png", "in.png"]


def test_picture_of_a_batch_is_that_of_generate(command: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", {"id": "a", "prompt": "a red circle", "seed": 7, "steps": 2})
    command("batch", tmp_path / "rows.jsonl", tmp_path)
    command("generate", "a red circle", "--seed", 7, "--steps", 2, "--out", tmp_path / "b.png")
    ours, theirs = read_parameters(tmp_path / "a.png"), read_parameters(tmp_path / "b.png")
    assert ours.pop("row_digest") and ours == theirs


def killed_at(pictures: int, folder: Path, *words: object) -> None:
    """Start the command and kill it when the folder has so many pictures."""
    process = start(*COMMAND, "batch", *words, cwd=folder.parent)
    try:
        while len([*folder.glob("*.png")]) < pictures:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
    finally:
        process.kill()
        process.communicate()


def test_batch_that_is_killed_goes_on_and_draws_nothing_twice(tmp_path: Path) -> None:
    rows, out = write_jsonl(tmp_path / "rows.jsonl", *sixty_rows()), tmp_path / "out"
    killed_at(20, out, rows, out, *QUICK)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    finished = run(*COMMAND, "batch", rows, out, *QUICK)
    assert finished.returncode == 1
    assert f"60 rows: {58 - len(before)} drawn, {len(before)} were there, 2 failed" in finished.stdout
    assert "note: line 11: steps=0 is below the fewest steps, 1\n" in finished.stderr
    assert "note: line 51: id='../50' holds a character" in finished.stderr
    assert finished.stderr.endswith(f"error: 2 of 60 rows have no picture; '{out}/manifest.jsonl' says why\n")
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert len(after) == 58 and before.items() <= after.items()
    assert sorted(path.name for path in out.iterdir() if path.suffix != ".png") == ["manifest.jsonl"]
    lines = manifest_of(out)
    assert sorted(line["row"] for line in lines) == [*range(1, 61)]
    assert {line["row"] for line in lines if line["error"]} == {11, 51}


def test_batch_that_is_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    rows, out = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a"}, {"prompt": "b", "steps": 100_000}), tmp_path / "out"
    process = start(*COMMAND, "batch", rows, out, *QUICK, cwd=tmp_path)
    while not (out / "0000001.png").exists() or not manifest_of(out):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.endswith("note: 1 of 2 rows are done; the same command goes on from there\nstopped\n") and "Traceback" not in said
    assert sorted(os.listdir(out)) == ["0000001.png", "manifest.jsonl"]


def test_batch_on_a_full_disk_says_so_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    large = {"steps": 1, "max_pixels": 4096, "width_px": 1024, "height_px": 1024}
    rows = write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a", "seed": seed, **large} for seed in range(4)))
    words = (rows, tmp_path / "disk" / "out", "--threads", 1, "--backend", "ort-cpu")
    finished = run_on_a_small_disk(tmp_path / "disk", 900_000, "out/0000004.png", *COMMAND, "batch", *words)
    assert finished.returncode == 1
    assert "No space left on device" in finished.stderr and "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("none.jsonl", "out"), "error: the file of rows 'none.jsonl' can't be read: No such file or directory"),
        (("rows.txt", "out"), "error: the file of rows 'rows.txt' must end in .jsonl"),
        (("rows.jsonl", "rows.jsonl"), "error: 'rows.jsonl' is a file: name a folder for the pictures"),
        (("rows.jsonl", "ftp://x"), "error: the output 'ftp://x' is no folder and begins with none of s3://"),
        (("rows.jsonl", "out", "--bundle", "nowhere"), "error: 'nowhere' is not a bundle"),
        (("rows.jsonl", "out", "--default", "steps"), "error: --default 'steps' is not NAME=VALUE"),
        (("rows.jsonl", "out", "--default", "=1"), "error: --default '=1' is not NAME=VALUE"),
        (("rows.jsonl", "out", "--default", "steps=1", "--default", "steps=2"), "error: --default names a column twice"),
        (("rows.jsonl", "out", "--default", "steps=0"), "error: steps=0 is below the fewest steps, 1"),
        (("rows.jsonl", "out", "--workers", 2), "error: the number of workers and what each reserves belong to --ray ADDRESS"),
        (("rows.jsonl", "out", "--threads", 0), "error: threads=0"),
        (("rows.jsonl", "out", "--memory-limit", "4"), "error: --memory-limit '4' lacks a unit"),
    ],
)
def test_batch_that_cannot_begin_says_why(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[object, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a"})
    assert command.fails("batch", *words).startswith(message)
    assert sorted(os.listdir()) == ["rows.jsonl"]


def test_batch_of_many_bad_rows_shows_the_first_ones(command: Command, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", *({"prompt": "a", "steps": 0} for _ in range(SHOWN_PROBLEMS + 5)))
    finished = command("batch", tmp_path / "rows.jsonl", tmp_path / "out")
    notes = [line for line in finished.err.splitlines() if line.startswith("note: ")]
    assert finished.code == 1 and len(notes) == SHOWN_PROBLEMS + 1
    assert notes[-1] == "note: more rows fail; the manifest lists them all"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5990, "100 min"), (6000, "1.7 h"), (10**6, "277.8 h")]
)
def test_duration_is_said_as_people_do(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_batch_with_a_lora_draws_with_it_and_names_it(command: Command, tmp_path: Path) -> None:
    rows, lora = tmp_path / "rows.jsonl", tmp_path / "style.safetensors"
    rows.write_text('{"id": "a", "prompt": "a large red circle on a blue background", "steps": 2}\n', encoding="utf-8")
    nano_lora(lora)
    words = ("--lora", f"{lora}:0.5", "--lora-dir", tmp_path / "merged")
    assert command("batch", rows, tmp_path / "plain").code == command("batch", rows, tmp_path / "styled", *words).code == 0
    plain, styled = (read_parameters(tmp_path / name / "a.png") for name in ("plain", "styled"))
    assert [each["scale"] for each in styled["loras"]] == [0.5] and plain["loras"] == [] and styled["bundle"] == "nano"
    assert (tmp_path / "plain/a.png").read_bytes() != (tmp_path / "styled/a.png").read_bytes()


def test_batch_whose_bundle_is_replaced_ends_before_a_picture_is_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures would have had the digest of the bundle that was there before."""
    rows, bundle = write_jsonl(tmp_path / "rows.jsonl", {"prompt": "a"}), shutil.copytree(NANO, tmp_path / "bundle")
    plain = batch_store.open_output

    def replaced(place: str) -> Output:
        (bundle / MANIFEST).write_text((bundle / MANIFEST).read_text() + " ")
        return plain(place)

    monkeypatch.setattr(batch_store, "open_output", replaced)
    said = command.fails("batch", rows, tmp_path / "out", "--bundle", bundle, "--default", "steps=1")
    assert "was replaced while the batch ran: run the same command again" in said and not [*(tmp_path / "out").glob("*.png")]
