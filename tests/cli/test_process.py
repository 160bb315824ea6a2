"""The command as a process of its own: starting it, stopping it, what it imports."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

COMMAND = (sys.executable, "-m", "omnigen2_rt")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, words)], capture_output=True, text=True)


def test_process_that_fails_prints_one_line_and_exits_1() -> None:
    finished = run("info", "/nowhere")
    assert (finished.returncode, finished.stderr) == (1, "error: '/nowhere' does not exist\n")


def test_process_with_debug_prints_the_trace() -> None:
    finished = run("--debug", "info", "/nowhere")
    assert finished.returncode == 1 and "Traceback" in finished.stderr


def test_process_without_a_prompt_exits_2() -> None:
    assert run("generate").returncode == 2


def test_interrupted_drawing_exits_130_and_leaves_nothing(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Typer turned Ctrl-C into exit code 130 without a word."""
    words = ("generate", "x", "--bundle", bundles["A"], "--height", 64, "--width", 64, "--steps", 100_000)
    process = subprocess.Popen(
        [*COMMAND, *map(str, words), "--precision", "fp32"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stderr is not None
    first = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "drawing" in first and rest.endswith("stopped\n") and "Traceback" not in rest
    assert not list(tmp_path.iterdir())


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
