"""`omnigen2 chat` and `omnigen2 reflect`: one answer, a conversation in a terminal, the files of a reflection."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from omnigen2_rt import load
from tests.commands.command import Command
from tests.commands.processes import hear_ctrl_c
from tests.exporting import GOLDENS

DRAW = "Draw a red cube on a wooden table."
ASK = "What is in the picture?"
ENGINE = ("--backend", "ort-cpu", "--precision", "fp32", "--threads", 1)
SMALL = ("--height", 64, "--width", 64, "--steps", 1, *ENGINE)
PICTURE = GOLDENS / "A" / "golden" / "inputs" / "chat_desc.png"


@pytest.fixture(scope="module")
def answer(bundles: dict[str, Path]) -> str:
    with load(bundles["A"], backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        return pipeline.chat(ASK).text


def test_chat_with_a_prompt_prints_the_answer(command: Command, bundles: dict[str, Path], answer: str) -> None:
    finished = command("chat", ASK, "--bundle", bundles["A"], *SMALL)
    assert (finished.code, finished.out) == (0, f"{answer}\n")


def test_chat_as_json_names_text_tokens_and_pictures(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    printed = json.loads(command("chat", ASK, "--bundle", bundles["A"], "--json", "--max-new-tokens", 2, *SMALL).out)
    assert printed["text"] and len(printed["token_ids"]) == 2 and printed["images"] == []
    printed = json.loads(command("chat", DRAW, "--bundle", bundles["A"], "--json", "--out", tmp_path, *SMALL).out)
    assert (printed["text"], printed["images"]) == ("", [str(tmp_path / "picture-1.png")])
    with Image.open(tmp_path / "picture-1.png") as picture:
        assert picture.size == (64, 64)


def test_chat_shows_its_images(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    words = ("chat", "Please describe this image briefly.", "--bundle", bundles["A"], "--json", "--out", tmp_path, *SMALL)
    seen, unseen = (json.loads(command(*words, *image).out)["token_ids"] for image in (("--image", PICTURE), ()))
    assert seen != unseen


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--json",), "--json needs a prompt"),
        (("x", "--out", "nowhere"), "--out 'nowhere' is not a folder"),
        (("x", "--image", "nowhere.png"), "nowhere.png"),
        (("x", "--max-new-tokens", 0), "max_new_tokens=0 is below"),
        (("x", "--temperature", -1), "temperature=-1.0 is out of range"),
        (("<|image_pad|>",), "holds 1 image tokens, without an image"),
        (("x", "--out", "/proc/self"), "--out '/proc/self' can't be written to"),
    ],
)
def test_chat_with_a_bad_value_says_so(
    command: Command, bundles: dict[str, Path], words: tuple[object, ...], said: str
) -> None:
    assert said in command.fails("chat", *words, "--bundle", bundles["A"], *SMALL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--temperature", -1), "temperature=-1.0 is out of range"),
        (("--max-new-tokens", 0), "max_new_tokens=0 is below the fewest, 1"),
        (("--seed", -1), "seed=-1 is below the smallest seed, 0"),
        (("--image", "nowhere.png"), "'nowhere.png' does not exist"),
        (("--image", "__file__"), "test_chat_commands.py"),
    ],
)
def test_conversation_with_a_bad_value_is_refused_before_the_first_question(
    command: Command, words: tuple[object, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It once refused every question for it, and exited with 0."""
    monkeypatch.setattr("sys.stdin", io.StringIO("what?\n"))
    words = tuple(__file__ if word == "__file__" else word for word in words)
    assert said in command.fails("chat", *words, "--bundle", "nano", *ENGINE)
    assert sys.stdin.read() == "what?\n"


def test_piped_questions_are_answered_without_prompts(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    questions = "what do you see?\nwhat colour is the background?"  # no line end at its end
    monkeypatch.setattr("sys.stdin", io.StringIO(questions))
    finished = command("chat", "--image", PICTURE, "--bundle", "nano", *ENGINE)
    assert finished.code == 0 and len(finished.out.splitlines()) == 2
    assert "> " not in finished.out and "/quit" not in finished.out


def test_answer_that_is_cut_says_so_apart_from_the_answer(command: Command) -> None:
    words = ("chat", "what do you see?", "--image", PICTURE, "--max-new-tokens", 2, "--bundle", "nano", *ENGINE)
    finished = command(*words)
    assert finished.err == "the answer was cut at 2 tokens: --max-new-tokens allows more\n"
    assert "cut" not in finished.out
    assert json.loads(command(*words, "--json").out)["finish_reason"] == "length"


def test_reflect_writes_the_pictures_and_a_sheet(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    words = ("reflect", "two birds", "--bundle", bundles["A"], "--rounds", 1, "--out", tmp_path / "x.png", *SMALL)
    printed = json.loads(command(*words, "--json").out)
    names = sorted(path.name for path in tmp_path.iterdir())
    rounds = len(printed["rounds"])
    assert names == sorted(["x.png", "x-sheet.png", *(f"x-{k}.png" for k in range(rounds))]) and 1 <= rounds <= 2
    assert sorted(printed["files"]) == [str(tmp_path / name) for name in names]
    assert sum(tried["best"] for tried in printed["rounds"]) == 1
    assert set(printed["rounds"][0]) == {"grade", "critique", "edit", "best"}


def test_reflect_with_no_rounds_says_so(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    words = ("reflect", "x", "--bundle", bundles["A"], "--rounds", 0, "--out", tmp_path / "x.png", *SMALL)
    assert "rounds=0 is below the fewest, 1" in command.fails(*words)
    assert not list(tmp_path.iterdir())


class Terminal:
    """`omnigen2 chat` in a terminal of its own."""

    def __init__(self, *words: object) -> None:
        self._screen, side = pty.openpty()
        command = [sys.executable, "-m", "omnigen2_rt", "chat", *map(str, words)]
        self.process = subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, start_new_session=True, env={**os.environ, "TERM": "xterm"},
            preexec_fn=_take_terminal,
        )  # fmt: skip
        os.close(side)
        self._seen = ""

    def type(self, keys: str) -> None:
        os.write(self._screen, keys.encode())

    def until(self, text: str, timeout_s: float = 60) -> str:
        """Everything shown since the last call, up to and with `text`."""
        deadline = time.monotonic() + timeout_s
        while text not in self._seen:
            assert time.monotonic() < deadline, f"{text!r} did not come: {self._seen!r}"
            if select.select([self._screen], [], [], 1)[0]:
                self._seen += os.read(self._screen, 4096).decode(errors="replace")
        shown, _, self._seen = self._seen.partition(text)
        return shown + text

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C until `text` is shown: Python's readline misses a signal that comes just before it waits for a key."""
        for _ in range(60):
            self.type("\x03")
            with suppress(AssertionError):
                self.until(text, timeout_s=1)
                return
        raise AssertionError(f"no Ctrl-C brought {text!r}: {self._seen!r}")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


def _take_terminal() -> None:
    """The terminal becomes the new session's own, so that its Ctrl-C reaches the process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    hear_ctrl_c()


@pytest.fixture
def terminal(bundles: dict[str, Path], tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*words: object) -> Terminal:
        opened.append(Terminal("--bundle", bundles["A"], "--out", tmp_path, *ENGINE, *words))
        opened[-1].until("> ")
        return opened[-1]

    yield start
    for entry in opened:
        entry.close()


def test_conversation_answers_shows_pictures_and_ends(
    terminal: Callable[..., Terminal], tmp_path: Path, answer: str
) -> None:
    screen = terminal("--height", 64, "--width", 64, "--steps", 1)
    screen.type(f"{ASK}\n")
    screen.until("\n")  # the terminal shows what was typed
    assert screen.until("> ").replace("\r", "").startswith(f"{answer}\n")
    screen.type("/new\n")
    screen.until("> ")
    screen.type(f"{DRAW}\n")
    screen.until("picture-1.png")
    screen.until("> ")
    screen.type(f"/image {PICTURE}\nPlease describe this image briefly.\n")
    screen.until("briefly.")
    screen.until("> ")
    screen.type("/quit\n")
    assert screen.process.wait(timeout=30) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["picture-1.png"]


def test_arrow_key_brings_back_the_line_before(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--max-new-tokens", 2)
    screen.type(f"{ASK}\n")
    screen.until(ASK)
    screen.until("> ")
    screen.type("\x1b[A")
    screen.until(ASK)
    screen.type("\n")
    screen.until("> ")


def test_ctrl_c_stops_an_answer_and_not_the_program(terminal: Callable[..., Terminal], tmp_path: Path) -> None:
    screen = terminal("--height", 64, "--width", 64, "--steps", 100_000, "--max-new-tokens", 2)
    screen.type(f"{DRAW}\n")
    screen.until("drawing")
    screen.type("\x03")
    screen.until("stopped")
    screen.until("> ")
    screen.type(f"{ASK}\n")
    screen.until(ASK)
    screen.until("> ")
    screen.type("\x04")
    assert screen.process.wait(timeout=30) == 0
    assert not list(tmp_path.iterdir())


def test_ctrl_c_at_the_prompt_leaves_the_line(terminal: Callable[..., Terminal]) -> None:
    screen = terminal("--max-new-tokens", 1)
    screen.type("never mind")
    screen.until("never mind")
    screen.interrupt_until("> ")
    screen.type("/quit\n")
    assert screen.process.wait(timeout=30) == 0


@pytest.mark.parametrize("out", [".", "", "/", ".."])
def test_reflect_whose_out_is_no_name_of_a_file_says_so(command: Command, bundles: dict[str, Path], out: str) -> None:
    """It ended in a ValueError: the names of the other files were made of it first."""
    assert "must end in .png" in command.fails("reflect", "x", "--bundle", bundles["A"], "--out", out, *SMALL)
