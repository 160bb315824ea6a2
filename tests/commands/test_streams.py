"""The command where its streams are closed, full, left by their reader, or speak another alphabet; and where words are wrong."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from omnigen2_rt.cli import main
from omnigen2_rt.commands.streams import LastingStream, lasting_streams
from omnigen2_rt.runtime.images.png import save_png
from tests.commands.command import Command
from tests.commands.processes import COMMAND, hear_ctrl_c, run

CAT = "猫 🐈 é\x9b2J"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture whose parameters hold words of other alphabets and an escape."""
    file = tmp_path / "猫.png"
    save_png(Image.new("RGB", (8, 8)), file, {"prompt": CAT})
    return file


def closed(*descriptors: int) -> Callable[[], None]:
    """For a child: close these of its streams, as `>&-` does in a shell."""
    return lambda: [os.close(descriptor) for descriptor in descriptors] and None


@pytest.mark.parametrize("descriptors", [(1,), (0, 1, 2)])
def test_command_with_closed_streams_succeeds(picture: Path, descriptors: tuple[int, ...]) -> None:
    finished = run(*COMMAND, "info", picture, before=closed(*descriptors))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout == ("" if 1 in descriptors else "prompt: 猫 🐈 é\\x9b2J\n")


@pytest.mark.parametrize("descriptors", [(2,), (0, 1, 2)])
def test_error_with_closed_streams_exits_1(descriptors: tuple[int, ...]) -> None:
    """The error could not be printed, and a trace of that came out."""
    finished = run(*COMMAND, "info", "/nowhere", before=closed(*descriptors))
    assert (finished.returncode, finished.stdout) == (1, "")
    assert finished.stderr == ("" if 2 in descriptors else "error: '/nowhere' does not exist\n")


def test_conversation_with_closed_input_ends(tmp_path: Path) -> None:
    """`input()` raised RuntimeError: lost sys.stdin."""
    finished = run(*COMMAND, "chat", "--out", tmp_path, before=closed(0))
    assert (finished.returncode, finished.stderr) == (0, "")


def test_closed_streams_are_not_taken_by_files_that_are_opened_later() -> None:
    """With standard error closed, the first file that was opened became number 2, and a library's log went into it."""
    script = "import os\nfrom omnigen2_rt.commands.streams import lasting_streams\nwith lasting_streams():\n"
    script += "    number = os.open(os.devnull, os.O_RDONLY); os._exit(number)"
    assert run(sys.executable, "-c", script, before=closed(0, 1, 2)).returncode == 3


def test_output_on_a_full_disk_says_so_and_exits_1(picture: Path) -> None:
    with open("/dev/full", "w") as full:
        finished = subprocess.run([*COMMAND, "info", picture], stdout=full, stderr=subprocess.PIPE, text=True)
    assert finished.returncode == 1
    assert finished.stderr == "error: can't write to the standard output: No space left on device\n"


def test_reader_that_goes_away_exits_141_without_a_word(picture: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    finished = subprocess.run([*COMMAND, "info", picture], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (141, "")


class Unread(io.StringIO):
    """A stream whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


def test_reader_that_goes_away_does_not_keep_results_from_being_saved(
    command: Command, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`bench --json FILE | head -1` printed the table first; with the reader gone, the figures were lost."""
    figures = tmp_path / "figures.json"
    words = ("--size", 32, "--steps", 1, "--references", 0, "--precision", "fp32", "--threads", 1, "--json", figures)
    monkeypatch.setattr(sys, "stdout", Unread())
    assert command("bench", bundles["A"], *words).code == 141
    assert len(json.loads(figures.read_text())["cases"]) == 2


def test_lasting_stream_drops_text_after_a_failure() -> None:
    stream = LastingStream(Unread())
    assert (stream.write("lost"), stream.write("lost as well")) == (4, 12)
    stream.flush()
    assert stream.failure is not None and stream.failure.errno == 32


def test_lasting_streams_are_put_back() -> None:
    before = sys.stdout, sys.stderr
    with pytest.raises(KeyError), lasting_streams():
        assert sys.stdout is not before[0]
        raise KeyError
    assert (sys.stdout, sys.stderr) == before


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp932", "utf-8"])
def test_console_of_another_alphabet_shows_escapes(
    command: Command, picture: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture was drawn, then a Windows console ended the command with UnicodeEncodeError."""
    consoles = io.BytesIO(), io.BytesIO()
    for console, words in zip(consoles, [(), ("--json",)], strict=True):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(console, encoding=encoding, newline=""))
        assert command("info", picture, *words).code == 0
    text, as_json = (console.getvalue().decode(encoding) for console in consoles)
    assert text == "prompt: 猫 🐈 é\\x9b2J\n".encode(encoding, "backslashreplace").decode(encoding)
    assert json.loads(as_json) == {"prompt": CAT} and "\x9b" not in as_json


def test_error_about_a_name_that_is_no_text_is_one_line() -> None:
    finished = subprocess.run([*COMMAND, "info", b"\xff\x1b[2J.png"], capture_output=True)
    assert (finished.returncode, finished.stdout) == (1, b"")
    assert finished.stderr == rb"error: '\udcff\x1b[2J.png' does not exist" + b"\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("generate",), "Missing argument 'prompt'; `omnigen2 generate --help` lists what there is"),
        (("qqq", "x"), "No such command 'qqq'; `omnigen2 --help` lists what there is"),
        (("generate", "x", "--colour"), "No such option: --colour"),
        (("generate", "x", "--steps", "many"), "Invalid value for '--steps': "),
        (("generate", "x", "--steps", "9" * 5000), "Invalid value for '--steps': "),
        (("generate", "x", "--cfg-range", 0), "'--cfg-range' requires 2 arguments; `omnigen2 generate --help` lists"),
        (("generate", "x", "--cfg-range", "0,0.6"), "'--cfg-range' requires 2 arguments; `omnigen2 generate --help` lists"),
        (("eval",), "Missing command; `omnigen2 eval --help` lists what there is"),
        (("eval", "mars"), "No such command 'mars'; `omnigen2 eval --help` lists what there is"),
        (("eval", "nano", "--samples"), "requires an argument; `omnigen2 eval --help` lists"),
        (("--debug=1", "info"), "`omnigen2 "),
        (("generate", "x", "y\x1b[2J\udcff"), r"(y\x1b[2J\udcff)"),
        (("quantize", "nano", "small"), "Missing option '--scheme'"),
        (("info",), "Missing argument 'file'; "),
        (("--nothing",), "No such option: --nothing"),
        (("info", *["x" * 100] * 50), "unexpected extra argument"),
    ],
)
def test_wrong_words_get_one_line_and_exit_2(command: Command, words: tuple[object, ...], said: str) -> None:
    """A usage text and a box of several lines came out."""
    finished = command(*words)
    assert (finished.code, finished.out, len(finished.err.splitlines())) == (2, "", 1)
    assert finished.err.startswith("error: ") and said in finished.err and len(finished.err) <= 301


def test_no_words_print_the_help(command: Command) -> None:
    finished = command()
    assert finished.code == 0 and "Usage: omnigen2" in finished.out and finished.err == ""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/a/figures\x1b.json"), r"'/a/figures\x1b.json': No space left on device"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (MemoryError(), "out of memory"),
        (MemoryError("Unable to allocate\n4 TiB"), "Unable to allocate 4 TiB"),
        (KeyError("x" * 1000), "KeyError: 'xxx"),
        (EOFError("no data left"), "EOFError: no data left; this is a fault of omnigen2"),
    ],
)
def test_error_of_any_kind_is_one_line_at_the_end(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*words: object, **settings: object) -> None:
        raise error

    monkeypatch.setattr("omnigen2_rt.commands.describe.describe", fail)
    line = command.fails("info", "x")
    assert line.startswith(f"error: {said}") and len(line) <= 300


def test_error_of_any_kind_shows_its_trace_with_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object, **settings: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("omnigen2_rt.commands.describe.describe", fail)
    monkeypatch.setattr(sys, "argv", ["omnigen2", "--debug", "info", "x"])
    with pytest.raises(KeyError):
        main()


def test_info_of_a_picture_shows_escapes_and_forges_no_line(command: Command, tmp_path: Path) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("omnigen2", json.dumps({"prompt\x1b[2J": "a\x1b]0;owned\x07\nchecked: every byte"}))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=chunks)
    shown = command("info", tmp_path / "a.png").out
    assert shown == "prompt\\x1b[2J: a\\x1b]0;owned\\x07\\nchecked: every byte\n"


@pytest.mark.parametrize("delay_s", [0.02, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_ctrl_c_while_the_command_starts_or_ends_is_quiet(delay_s: float) -> None:
    """Regression: in the first half second, while modules are imported, it ended the command with a trace."""
    words = [sys.executable, "-c", "from omnigen2_rt.__main__ import main; print('begun', flush=True); main()", "--version"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=hear_ctrl_c
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) in [(130, "stopped\n"), (0, "")]


def test_ctrl_c_in_the_background_is_ignored() -> None:
    words = [*COMMAND, "--version"]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
