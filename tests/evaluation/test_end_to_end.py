"""`omnigen2 eval omnicontext` from data to page, on a set of nano's world, with a judge on loopback that reads as its scorer."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from omnigen2_rt.evaluation.samples import Sample
from omnigen2_rt.exporter.quantize.bundle import quantize_bundle
from omnigen2_rt.exporter.quantize.calibration import Calibration
from omnigen2_rt.exporter.quantize.schemes import SCHEMES
from omnigen2_rt.nano.tasks.task_types import DrawingTask
from omnigen2_rt.runtime.files.safetensors_header import read_header
from omnigen2_rt.runtime.pipeline import bundle_path
from tests.benchmarks.programs import load_program
from tests.commands.command import Command
from tests.evaluation.endpoint_double import Asked, EndpointDouble, Reply, endpoint_double, says

ENGINE = ("--backend", "ort-cpu", "--precision", "fp32", "--threads", 1)
GUIDED = ("--size", 128, "--steps", 3, "--text-guidance", 2.5, "--image-guidance", 1.5, "--negative-prompt", "")
QUICK = ("--size", 32, "--steps", 1, "--text-guidance", 1, "--image-guidance", 1, "--negative-prompt", "")


@dataclass(frozen=True)
class NanoSet:
    """A set on disk, its tasks by key, and a judge that knows them."""

    folder: Path
    samples: list[Sample]
    tasks: dict[str, tuple[str, DrawingTask]]
    reply: Callable[[Asked, int], Reply]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_program(monkeypatch, "judged_nano")


@pytest.fixture
def nano_set(program: ModuleType, tmp_path: Path) -> NanoSet:
    return make_set(program, tmp_path / "set", 4)


def make_set(program: ModuleType, folder: Path, samples: int) -> NanoSet:
    tasks = program.make_tasks(samples)
    written = program.write_set(folder, tasks)
    judge = program.NanoJudge(written, tasks)

    def reply(asked: Asked, number: int) -> Reply:
        return says(judge.answer(asked.text, [*map(program.picture_bytes, asked.pictures)]), model="nano-reader-1")

    return NanoSet(folder, written, tasks, reply)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return Command(monkeypatch, capsys)


def judged(double: EndpointDouble) -> tuple[object, ...]:
    return "--judge", double.url, "--judge-model", "nano-reader"


def test_difference_between_fp32_and_4_bit_weights_is_what_nanos_scorer_says(
    program: ModuleType, nano_set: NanoSet, command: Command, tmp_path: Path
) -> None:
    int4, out = tmp_path / "int4", tmp_path / "out"
    scheme = replace(SCHEMES["int4-weights"], compensates_errors=False)  # quicker
    calibration = Calibration(prompts=("a red circle on blue",), size_px=32, steps=1)
    quantize_bundle(bundle_path("nano"), int4, scheme, calibration=calibration)
    spoil_scales(int4 / "quantized.safetensors")
    words = ("eval", "omnicontext", nano_set.folder, "--bundle", int4, "--against", "nano", "--out", out, *ENGINE, *GUIDED)
    with endpoint_double(nano_set.reply) as double:
        refused = command(*words, *judged(double))
        asked = len(double.asked)
        finished = command(*words, *judged(double), "--allow-incomplete", "--json", tmp_path / "scores.json")
        assert asked == len(double.asked) == 2 * 2 * len(nano_set.samples)
    assert refused.code == 0 and "not the whole published set" in refused.out and "not given" in refused.out
    assert finished.code == 0 and "int4 minus nano:" in finished.out
    scores = json.loads((tmp_path / "scores.json").read_text())
    own = {name: program.own_scores(out, name, nano_set.samples, nano_set.tasks)["average"] for name in ("int4", "nano")}
    difference = scores["difference"]["overall"]["average"]
    assert own["int4"] - own["nano"] < 0 and difference["value"] < 0
    assert difference["low"] <= difference["value"] <= difference["high"] and difference["samples"] == 12
    expected = scores["int4"]["overall"]["average"]["value"] - scores["nano"]["overall"]["average"]["value"]
    assert difference["value"] == pytest.approx(expected, abs=1e-5)
    check_files(out / "int4" / "nano-reader", nano_set)


def spoil_scales(file: Path) -> None:
    """Make a quantized bundle draw badly: with 4-bit weights alone nano draws well."""
    rng = np.random.default_rng(0)
    for name, tensor in read_header(file).items():
        if name.startswith("layers.") and name.endswith("scales.fp32"):
            scales = np.memmap(file, np.float32, "r+", tensor.offset, tensor.shape)
            scales *= rng.uniform(0, 2, scales.shape).astype(np.float32)


def check_files(folder: Path, nano_set: NanoSet) -> None:
    """The files of a model's scores are there and agree."""
    rows = [json.loads(line) for line in (folder / "combined_score.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [sample.key for sample in nano_set.samples]
    for row in rows:
        assert (row["PF_score"] * row["SC_score"]) ** 0.5 == pytest.approx(row["overall_score"], abs=1e-5)
        assert (folder.parent.parent / row["output_image_path"]).is_file() and row["instruction_language"] == "en"
    by_task = [folder / task / "score.jsonl" for task in ("single_object", "multi_object", "scene_object")]
    assert "".join(path.read_text() for path in by_task) == (folder / "combined_score.jsonl").read_text()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["judge"]["reported_models"] == {"nano-reader-1": 24} and summary["drawing"]["steps"] == 3
    assert {path.name for path in folder.glob("*.html")} == {"report.html", "against-nano.html"}


def content_hashes(out: Path) -> dict[str, str]:
    """Every file below a folder of results but the lock."""
    files = [path for path in out.rglob("*") if path.is_file() and path.name != "lock"]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def start(words: tuple[object, ...]) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-m", "omnigen2_rt", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def test_run_that_is_killed_while_it_draws_and_while_it_asks_ends_with_the_same_bytes(
    program: ModuleType, command: Command, tmp_path: Path
) -> None:
    nano_set = make_set(program, tmp_path / "set", 2)
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    words = ("eval", "omnicontext", nano_set.folder, "--bundle", "nano", *ENGINE, *QUICK, "--allow-incomplete", "--parallel", 1)
    running: list[subprocess.Popen[bytes]] = []

    def reply(asked: Asked, number: int) -> Reply:
        if number == 5:
            running[-1].send_signal(signal.SIGKILL)
        return nano_set.reply(asked, number)

    with endpoint_double(reply) as double:
        running.append(start((*words, "--out", killed, *judged(double))))
        for _ in seconds(60):
            if len([*killed.rglob("*.png")]) >= 2:
                break
        running[-1].kill()
        running[-1].communicate()
        assert 2 <= len([*killed.rglob("*.png")]) <= 6 and not [*killed.rglob("*.jsonl")]
        running.append(start((*words, "--out", killed, *judged(double))))
        running[-1].communicate()
        assert running[-1].returncode == -signal.SIGKILL
        assert len([*(killed / "answers").rglob("*.json")]) == 5 and not [*killed.rglob("*.jsonl")]
        (killed / "nano" / ".partial-0123456789abcdef").write_bytes(b"half a file, as a kill in the middle of writing leaves it")
        assert command(*words, "--out", killed, *judged(double)).code == 0
        assert len(double.asked) == 12 + 1  # the answer that was on its way
    with endpoint_double(nano_set.reply) as double:
        assert command(*words, "--out", whole, *judged(double)).code == 0
    assert content_hashes(killed) == content_hashes(whole)


def seconds(most: int) -> Iterator[int]:
    """Waits a moment before each turn. Fails after `most` seconds."""
    for turn in range(most * 20):
        time.sleep(0.05)
        yield turn
    pytest.fail(f"nothing happened within {most} seconds")


def test_pictures_are_drawn_first_and_judged_by_a_later_command(program: ModuleType, command: Command, tmp_path: Path) -> None:
    nano_set = make_set(program, tmp_path / "set", 1)
    words = ("eval", "omnicontext", nano_set.folder, "--out", tmp_path / "out")
    drawn = command(*words, "--bundle", "nano", "--name", "mine", *ENGINE, *QUICK)
    assert (drawn.code, drawn.out.splitlines()[0]) == (0, "mine: 3 of 3 pictures are there")
    with endpoint_double(nano_set.reply) as double:
        finished = command(*words, "--no-draw", "--name", "mine", *judged(double), "--allow-incomplete")
        assert finished.code == 0 and len(double.asked) == 6
        again = command(*words, "--bundle", "nano", "--name", "other", "--against-run", "mine", *ENGINE, *QUICK, *judged(double))
        assert again.code == 0 and len(double.asked) == 6, "the same pictures have the same answers"
        assert "other and mine" not in again.out and "No difference is given" in again.out


def test_key_comes_from_the_named_variable_and_is_nowhere_in_the_results(
    program: ModuleType, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nano_set = make_set(program, tmp_path / "set", 1)
    monkeypatch.setenv("MY_KEY", "s3cr3t-key")
    words = ("eval", "omnicontext", nano_set.folder, "--bundle", "nano", "--out", tmp_path / "out", *ENGINE, *QUICK)
    with endpoint_double(nano_set.reply) as double:
        finished = command(*words, *judged(double), "--judge-key", "MY_KEY")
    assert double.asked[0].headers["authorization"] == "Bearer s3cr3t-key"
    assert "s3cr3t" not in finished.out + finished.err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()]


def test_incomplete_answers_end_with_an_error_and_without_an_average(
    program: ModuleType, command: Command, tmp_path: Path
) -> None:
    nano_set = make_set(program, tmp_path / "set", 1)
    words = ("eval", "omnicontext", nano_set.folder, "--bundle", "nano", "--out", tmp_path / "out", *ENGINE, *QUICK)
    with endpoint_double(lambda asked, number: nano_set.reply(asked, number) if number else says("ten")) as double:
        error = command.fails(*words, *judged(double))
        assert "1 of 3 samples have no score, 1 answers are missing" in error and "--ask-again" in error
        assert command(*words, *judged(double), "--ask-again", "--allow-incomplete").code == 0
    assert len(double.asked) == 7
