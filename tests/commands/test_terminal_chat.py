"""The terminal chat with scripted lines instead of a terminal."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.commands.terminal_chat import (
    answer_as_json,
    check_folder,
    converse,
    cut_note,
    line_reader,
    picture_file,
    save_rounds,
)
from omnigen2_rt.runtime.chat.exchange import ChatResult
from omnigen2_rt.runtime.chat.reflection import Reflection, Round
from omnigen2_rt.runtime.chat.settings import ChatSettings
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.request import Request, Result

REQUEST = Request(prompt="")


class Parrot:
    """Says the question back; draws where it is "draw", and fails or is interrupted on demand."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, list[Path]]] = []

    def ask(
        self, prompt: str, images: list[Path], settings: ChatSettings, on_token: Callable[[str], object], on_step: object
    ) -> ChatResult:
        self.heard.append((prompt, images))
        if prompt == "fail":
            raise RequestError("no such thing")
        if prompt == "interrupt":
            raise KeyboardInterrupt
        on_token(prompt)
        made = [Image.new("RGB", (16, 16))] if prompt == "draw" else []
        return ChatResult(
            text=prompt, token_ids=(1,), images=made, result=None, finish_reason="length" if prompt == "cut" else "stop"
        )


def talk(
    lines: list[str], folder: Path, images: tuple[Path, ...] = (), at_terminal: bool = True
) -> tuple[Parrot, str]:
    remaining: Iterator[str] = iter(lines)
    parrot, said = Parrot(), list[str]()

    def next_line() -> str:
        try:
            return next(remaining)
        except StopIteration:
            raise EOFError from None

    starts: Any = lambda: parrot  # noqa: E731
    converse(starts, ChatSettings(request=REQUEST), folder, next_line, said.append, images, at_terminal=at_terminal)
    return parrot, "".join(said)


def test_picture_shown_goes_with_the_next_question_only(tmp_path: Path) -> None:
    file = tmp_path / "a b.png"
    Image.new("RGB", (4, 4)).save(file)
    parrot, _ = talk([f"/image {file}", "what?", "and?"], tmp_path)
    assert parrot.heard == [("what?", [file]), ("and?", [])]


def test_pictures_given_at_the_start_go_with_the_first_question(tmp_path: Path) -> None:
    parrot, _ = talk(["what?", "and?"], tmp_path, (tmp_path / "a.png",))
    assert parrot.heard == [("what?", [tmp_path / "a.png"]), ("and?", [])]


def test_pictures_are_saved_under_free_names(tmp_path: Path) -> None:
    _, said = talk(["draw", "draw"], tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["picture-1.png", "picture-2.png"]
    assert "picture-2.png" in said


@pytest.mark.parametrize(("line", "said"), [("fail", "error: no such thing"), ("interrupt", "stopped")])
def test_answer_that_fails_or_is_interrupted_does_not_end_the_chat(tmp_path: Path, line: str, said: str) -> None:
    parrot, text = talk([line, "still here"], tmp_path)
    assert said in text and parrot.heard[-1][0] == "still here"


def test_quit_ends_the_chat_and_a_missing_file_does_not(tmp_path: Path) -> None:
    parrot, text = talk(["/image nowhere.png", "/what", "", "/quit", "unheard"], tmp_path)
    assert parrot.heard == [] and "there is no file 'nowhere.png'" in text


@pytest.mark.parametrize("typed", ["a b.png", "'a b.png'", '"a b.png"', r"a\ b.png", "./a b.png"])
def test_picture_may_be_named_as_in_a_shell(tmp_path: Path, typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quoted name was once looked for with its quotes."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a b.png")
    monkeypatch.chdir(tmp_path)
    assert picture_file(typed).resolve() == tmp_path / "a b.png"


def test_picture_that_cannot_be_shown_is_refused_where_it_is_named(tmp_path: Path) -> None:
    """It was once refused with the question, and a bare /image looked for a file of no name."""
    (tmp_path / "text.png").write_text("no picture")
    lines = ["/image", "/image   ", f"/image {tmp_path}", f"/image {tmp_path / 'text.png'}", f"/image {'x' * 9000}", "what?"]
    parrot, text = talk(lines, tmp_path)
    assert parrot.heard == [("what?", [])]
    assert text.count("/image needs the name of a picture") == 2 and text.count("there is no file") == 2
    assert "text.png' " in text and text.count("error: ") == 5


@pytest.mark.parametrize(
    ("line", "error"), [("fail", RequestError), ("interrupt", KeyboardInterrupt), ("/image x", RequestError)]
)
def test_error_or_ctrl_c_in_piped_questions_ends_the_command(tmp_path: Path, line: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        talk([line, "unheard"], tmp_path, at_terminal=False)


def test_piped_questions_get_answers_and_nothing_else(tmp_path: Path) -> None:
    """The help and a prompt for each line once stood among the answers."""
    _, text = talk(["what?", "", "and?"], tmp_path, at_terminal=False)
    assert text == "what?\nand?\n"


def test_lines_of_a_pipe_are_read_without_a_prompt(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ntwo"))
    read = line_reader()
    assert [read(), read()] == ["one\n", "two"]
    with pytest.raises(EOFError):
        read()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\xff\xfe\n", "the standard input is not utf-8 text"), (b"x" * (2**20 + 1), "a line of more than 1048576 characters")],
    ids=["bytes", "endless"],
)
def test_pipe_without_text_is_refused(monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    with pytest.raises(RequestError, match=message):
        line_reader()()


def test_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(RequestError, match="there is no standard input to read questions from"):
        line_reader()


def test_answer_that_was_cut_has_a_note_on_the_error_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, text = talk(["cut"], tmp_path)
    assert text.endswith("cut\n")
    assert capsys.readouterr().err == "the answer was cut at 1 tokens: --max-new-tokens allows more\n"
    full = ChatResult(text="x", token_ids=(1,), images=[], result=None, finish_reason="context")
    assert "fills the model's context" in cut_note(full)


@pytest.mark.parametrize(
    ("folder", "message"), [("nowhere", "is not a folder: make it first"), ("/proc/self", "can't be written to")]
)
def test_folder_that_takes_no_pictures_is_refused(folder: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_folder(Path(folder))


def test_answer_as_json_names_its_files() -> None:
    answer = ChatResult(text="hi", token_ids=(1, 2), images=[], result=None)
    assert answer_as_json(answer, [Path("a.png")]) == {
        "text": "hi",
        "token_ids": [1, 2],
        "images": ["a.png"],
        "finish_reason": "stop",
    }


def test_rounds_are_saved_with_a_sheet_and_the_best_under_the_name(tmp_path: Path) -> None:
    rounds = []
    for colour in ("red", "blue"):
        image, latents = Image.new("RGB", (16, 24), colour), np.zeros((1, 1, 2, 2), np.float32)
        result = Result(images=[image], latents=latents, steps=(), timings={}, request=REQUEST)
        rounds.append(Round(result=result, grade=1.0, critique="it is dark " * 9, edit="brighten it"))
    names = save_rounds(Reflection(rounds=tuple(rounds), best=1), tmp_path / "x.png")
    assert [name.name for name in names] == ["x.png", "x-0.png", "x-1.png", "x-sheet.png"]
    with Image.open(names[0]) as best, Image.open(names[3]) as sheet:
        assert best.getpixel((0, 0)) == (0, 0, 255)
        assert sheet.width == 2 * 220 + 8 and sheet.height > 24 + 3 * 14
        assert [sheet.getpixel(at) for at in ((0, 0), (228, 0), (100, 0))] == [(255, 0, 0), (0, 0, 255), (255, 255, 255)]
        captions = np.asarray(sheet.convert("L"))[32:]
        assert (captions[:, :220] < 128).any() and (captions[:, 228:] < 128).any()
