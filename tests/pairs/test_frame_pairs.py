"""`omnigen2 pairs frames` on films of nano's shapes: files, resuming, an endpoint as the writer, and the filters."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import omnigen2_rt as og
from omnigen2_rt.nano.judging.picture_reader import read_picture
from omnigen2_rt.nano.tasks.wording import caption
from omnigen2_rt.nano.world.scenes import Scene
from omnigen2_rt.pairs.bundle_model import bundle_model
from omnigen2_rt.pairs.frame_pairs import FrameModel, make_pairs
from omnigen2_rt.pairs.frame_settings import FrameSettings
from omnigen2_rt.pairs.frames import Frame, frames_in
from omnigen2_rt.pairs.similarity import similarity
from omnigen2_rt.runtime.errors import OmniGen2Error, RequestError
from omnigen2_rt.runtime.files.kept_results import KeptResults
from omnigen2_rt.runtime.mllm.language_model import ImageFeatures
from tests.benchmarks.programs import load_program
from tests.commands.command import Command
from tests.evaluation.endpoint_double import Asked, Reply, endpoint_double, fails, says

ENGINE = ("--backend", "ort-cpu", "--precision", "fp32", "--threads", 1)
RESULTS = ("pairs.jsonl", "sequences.jsonl", "dropped.jsonl", "report.json")


@pytest.fixture(scope="module")
def pipeline() -> Iterator[og.Pipeline]:
    with og.load(backend="ort-cpu", precision="fp32", threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(pipeline: og.Pipeline) -> FrameModel:
    return bundle_model(pipeline)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("film")
    with pytest.MonkeyPatch.context() as patch:
        films = load_program(patch, "frame_films")
        films.write_film(films.film(2, 3, 6), folder)
    return folder


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def test_pairs_of_a_film_are_rows_of_the_training_whose_frames_are_all_accounted_for(
    model: FrameModel, film: Path, tmp_path: Path
) -> None:
    report = make_pairs(film, tmp_path / "out", model, FrameSettings())
    rows = lines_of(tmp_path / "out" / "pairs.jsonl")
    assert report["pairs"] == {"edit": 2, "ic": 1} and len(rows) == 3
    for row in rows:
        assert set(row) == {"task_type", "instruction", "input_images", "output_image"}
        assert all(Path(name).parent == film for name in (*row["input_images"], row["output_image"]))
    sequences = lines_of(tmp_path / "out" / "sequences.jsonl")
    dropped = lines_of(tmp_path / "out" / "dropped.jsonl")
    named = {each["frame"] for sequence in sequences for each in sequence["frames"]}
    assert named | {name for each in dropped for name in each["frames"]} == {path.name for path in film.iterdir()}
    assert sum(report["dropped"].values()) == len(dropped)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("calls", [3, 25])
def test_stopped_run_goes_on_to_the_same_bytes(model: FrameModel, film: Path, tmp_path: Path, calls: int) -> None:
    left = calls
    asked: list[str] = []

    def spent() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped

    def encode(frame: Frame) -> ImageFeatures:
        spent()
        return model.encode(frame)

    def ask(question: str, frames: Sequence[Frame]) -> str:
        spent()
        asked.append(question + "".join(frame.name for frame in frames))
        return model.ask(question, frames)

    stopping = replace(model, encode=encode, ask=ask)
    make_pairs(film, tmp_path / "whole", model, FrameSettings())
    with pytest.raises(Stopped):
        make_pairs(film, tmp_path / "out", stopping, FrameSettings())
    with (tmp_path / "out" / "work.jsonl").open("ab") as file:
        file.write(b'{"key": "half a li')
    left = 10**6
    make_pairs(film, tmp_path / "out", stopping, FrameSettings())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(asked) == len(set(asked))


def test_killed_process_leaves_what_the_next_one_goes_on_from(model: FrameModel, film: Path, tmp_path: Path) -> None:
    words = ("pairs", "frames", film, tmp_path / "out", *ENGINE)
    process = subprocess.Popen(
        [sys.executable, "-m", "omnigen2_rt", *map(str, words)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    work = tmp_path / "out" / "work.jsonl"
    while process.poll() is None and not (work.exists() and work.read_bytes().count(b"\n") > 30):
        time.sleep(0.005)
    process.kill()
    process.wait()
    lines = work.read_bytes().count(b"\n")
    make_pairs(film, tmp_path / "out", model, FrameSettings())
    make_pairs(film, tmp_path / "whole", model, FrameSettings())
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert work.read_bytes() == (tmp_path / "whole" / "work.jsonl").read_bytes() and lines > 30


def test_frame_that_is_no_picture_is_reported_and_left_out(model: FrameModel, film: Path, tmp_path: Path) -> None:
    for path in list(film.iterdir())[:3]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "frame-99.png").write_bytes(b"no picture")
    (tmp_path / "notes.txt").write_text("no frame")
    report = make_pairs(tmp_path, tmp_path / "out", model, FrameSettings())
    assert (report["frames"], report["dropped"]["no picture"]) == (4, 1)


def test_frames_are_ordered_by_the_numbers_in_their_names(tmp_path: Path) -> None:
    for name in ("f10.png", "f9.png", "f1.JPG", "g2.png", "f09b.webp"):
        (tmp_path / name).write_bytes(b"")
    assert [frame.name for frame in frames_in(tmp_path)] == ["f1.JPG", "f9.png", "f09b.webp", "f10.png", "g2.png"]


def test_frames_that_are_hidden_are_left_out_and_equal_numbers_have_a_fixed_order(tmp_path: Path) -> None:
    for name in ("1.png", "01.png", "001.png", "._1.png"):
        (tmp_path / name).write_bytes(b"")
    assert [frame.name for frame in frames_in(tmp_path)] == ["001.png", "01.png", "1.png"]


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_entry_that_cannot_be_read_as_a_frame_is_named(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "x.png")
    with pytest.raises(RequestError, match="x.png"):
        frames_in(tmp_path)


def test_result_files_that_no_run_wrote_are_not_overwritten(model: FrameModel, film: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("mine")
    with pytest.raises(RequestError, match="not from an earlier run"):
        make_pairs(film, tmp_path, model, FrameSettings())
    assert (tmp_path / "pairs.jsonl").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: None])
def test_folder_without_frames_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "x")
    with pytest.raises(RequestError, match="holds no frames|can't be read"):
        frames_in(tmp_path / "x")


def test_two_runs_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    kept = KeptResults(tmp_path / "work.jsonl")
    with pytest.raises(RequestError, match="another process is working"):
        KeptResults(tmp_path / "work.jsonl")
    kept.close()


def test_similarity_of_other_sizes_is_taken_on_the_coarser_grid() -> None:
    rng = np.random.default_rng(0)
    small = rng.normal(size=(2, 3, 8)).astype(np.float32)
    large = np.repeat(np.repeat(small, 2, axis=0), 2, axis=1)
    pair = ImageFeatures(small.reshape(-1, 8), (2, 3)), ImageFeatures(large.reshape(-1, 8), (4, 6))
    assert similarity(*pair) == pytest.approx(1)
    assert similarity(pair[0], ImageFeatures(-small.reshape(-1, 8), (2, 3))) == pytest.approx(-1)


def test_filters_find_what_was_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The committed figures are of 20 films; here are two."""
    filters = load_program(monkeypatch, "frame_pairs").measure(films=2, shots=3, frames=7, threads=1)["filters"]
    for name in ("cuts", "jumps", "near-duplicates", "unrelated scenes"):
        assert filters[name]["true"] and filters[name]["precision"] == 1, (name, filters[name])
        assert filters[name]["recall"] >= 0.6, (name, filters[name])
    for name in ("captions", "instructions"):
        assert filters[name]["true"] and filters[name]["recall"] >= 0.5, (name, filters[name])


def reading_writer(asked: Asked, number: int) -> Reply:
    """A writer that reads nano's pictures: it captions, criticises against a caption, and edits to it."""
    captions = [caption_of(url) for url in asked.pictures]
    text = asked.text
    if text == "describe the picture":
        return says(captions[0])
    wanted = text.partition("request: ")[2].partition("\n")[0]
    if "Say in one or two sentences" in text:
        return says("Nothing." if captions[0] == wanted else f"It shows {captions[0]}.")
    if "Write the instruction" in text:
        return says(f"Turn it into {wanted}.")
    return says("Yes" if captions[1] in text else "No")


def caption_of(url: str) -> str:
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        reading = read_picture(picture)
    return caption(Scene(background=reading.background, things=reading.things))


def test_pairs_command_lets_an_endpoint_write_and_judge_pairs(
    command: Command, film: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMES_KEY", "sk-frames")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-host")
    with endpoint_double(reading_writer) as double:
        writer = ("--writer", double.url, "--writer-model", "eyes", "--writer-key", "FRAMES_KEY")
        words = ("pairs", "frames", film, tmp_path / "out", *writer)
        report = json.loads(command(*words, "--json", *ENGINE).out)
        asked = len(double.asked)
        assert command(*words, *ENGINE).code == 0
        assert len(double.asked) == asked
        assert {each.headers["authorization"] for each in double.asked} == {"Bearer sk-frames"}
        assert any(len(each.pictures) == 2 for each in double.asked)
    rows = lines_of(tmp_path / "out" / "pairs.jsonl")
    assert rows and report["writer"] == f"{double.url} eyes"
    assert all(row["instruction"].startswith("Turn it into ") for row in rows if row["task_type"] == "edit")


@pytest.mark.parametrize("refusal", [fails(400), says("It shows", finish_reason="length"), says(None, refusal="no"), says("")])
def test_writer_that_refuses_everything_is_an_error_and_nothing_is_kept_of_it(
    command: Command, film: Path, tmp_path: Path, refusal: Reply
) -> None:
    with endpoint_double(lambda asked, number: refusal) as double:
        words = ("pairs", "frames", film, tmp_path / "out", "--writer", double.url, "--writer-model", "eyes", *ENGINE)
        assert "the writer answered none of 5 questions in a row" in command.fails(*words)
        assert len(double.asked) == 5 and b"answer" not in (tmp_path / "out" / "work.jsonl").read_bytes()
        double.reply = reading_writer
        assert command(*words).code == 0
    assert lines_of(tmp_path / "out" / "pairs.jsonl")


def test_question_that_was_refused_is_noted_and_asked_again_by_the_next_run(command: Command, film: Path, tmp_path: Path) -> None:
    with endpoint_double(lambda asked, number: fails(400, "policy") if number == 2 else reading_writer(asked, number)) as double:
        words = ("pairs", "frames", film, tmp_path / "out", "--writer", double.url, "--writer-model", "eyes", *ENGINE)
        finished = command(*words)
        assert "1 captions or instructions are missing" in finished.err and finished.code == 0
        dropped = {line["reason"]: line["detail"] for line in lines_of(tmp_path / "out" / "dropped.jsonl")}
        assert "policy" in dropped["the writer did not answer"]
        assert "are missing" not in command(*words).err


def test_writer_that_fails_ends_the_run_and_the_next_one_goes_on(
    model: FrameModel, film: Path, tmp_path: Path
) -> None:
    def ask(question: str, frames: Sequence[Frame]) -> str:
        raise OmniGen2Error("the endpoint answered 500; 6 tries were made")

    with pytest.raises(OmniGen2Error, match="500"):
        make_pairs(film, tmp_path, replace(model, ask=ask), FrameSettings())
    assert not (tmp_path / "pairs.jsonl").exists()
    assert make_pairs(film, tmp_path, model, FrameSettings())["pairs"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--cut-below", 2), "cut_below=2 is out of range"),
        (("--writer", "http://127.0.0.1:1/v1"), "--writer URL and --writer-model NAME belong together"),
        (("--writer", "nowhere", "--writer-model", "m"), "is not an address"),
        (("--pair-question", "right?"), "does not hold {instruction}"),
    ],
)
def test_pairs_command_with_a_bad_value_says_so(
    command: Command, film: Path, tmp_path: Path, words: tuple[object, ...], said: str
) -> None:
    assert said in command.fails("pairs", "frames", film, tmp_path / "out", *words, *ENGINE)
    assert not (tmp_path / "out").exists()
