"""The command as a process of its own: starting it, stopping it, where the disk is full, what it imports."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands.processes import COMMAND, hear_ctrl_c, run, run_on_a_small_disk, start


@pytest.fixture
def drawing(bundles: dict[str, Path]) -> tuple[object, ...]:
    """`generate` of a picture of more than 8 kB."""
    size = ("--height", 64, "--width", 64)
    return (*COMMAND, "generate", "x", "--bundle", bundles["A"], *size, "--precision", "fp32", "--threads", 1)


def test_process_that_fails_prints_one_line_and_exits_1() -> None:
    finished = run(*COMMAND, "info", "/nowhere")
    assert (finished.returncode, finished.stderr) == (1, "error: '/nowhere' does not exist\n")


def test_process_with_debug_prints_the_trace() -> None:
    finished = run(*COMMAND, "--debug", "info", "/nowhere")
    assert finished.returncode == 1 and "Traceback" in finished.stderr


def test_process_without_a_prompt_exits_2() -> None:
    assert run(*COMMAND, "generate").returncode == 2


def test_interrupted_drawing_exits_130_and_leaves_nothing(drawing: tuple[object, ...], tmp_path: Path) -> None:
    """Typer turned Ctrl-C into exit code 130 without a word."""
    process = start(*drawing, "--steps", 100_000, cwd=tmp_path)
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "drawing" in first and rest.endswith("stopped\n") and "Traceback" not in rest
    assert not list(tmp_path.iterdir())


def test_interrupted_bench_of_all_ways_ends_its_process_too(bundles: dict[str, Path], tmp_path: Path) -> None:
    """The process that drew printed a trace of its own, and the command waited for its end."""
    words = [*COMMAND, "bench", bundles["B"], "--all", "--size", 32, "--steps", 100_000, "--threads", 1]
    process = subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=hear_ctrl_c,
        process_group=0,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("0/")
    time.sleep(0.5)  # its process has begun
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]  # to the end of all that hold the stream
    assert (process.returncode, errors) == (130, "stopped\n")


def test_drawing_to_a_full_disk_says_so_and_leaves_nothing(drawing: tuple[object, ...], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    finished = run_on_a_small_disk(disk, 8192, "a.png", *drawing, "--steps", 1, "--out", disk / "a.png")
    assert (finished.returncode, finished.stdout) == (1, ""), finished.stderr
    said = [line for line in finished.stderr.splitlines() if "error" in line]
    assert said == [f"error: nothing can be written into the folder of --out, '{disk}': No space left on device"]


def test_picture_too_large_to_write_leaves_the_old_one(drawing: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    limit = (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    words = (*drawing, "--steps", 1, "--out", tmp_path / "a.png")
    finished = run(*words, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    assert (finished.returncode, finished.stdout) == (1, "")
    problem = f"nothing can be written into the folder of --out, '{tmp_path}': File too large"
    assert finished.stderr.splitlines()[-1] == f"error: {problem}"
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_reader_that_goes_away_is_no_crash() -> None:
    process = subprocess.Popen([*COMMAND, "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read().decode()
    process.stderr.close()
    process.wait()
    assert "Traceback" not in said


def test_help_imports_neither_an_engine_nor_pytorch() -> None:
    script = """
import sys
from omnigen2_rt.cli import main
sys.argv = ["omnigen2", "--help"]
try:
    main()
except SystemExit:
    loaded = {"torch", "transformers", "onnx", "onnxruntime"} & set(sys.modules)
    assert not loaded, loaded
"""
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
