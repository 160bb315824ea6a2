"""The terminal chat with scripted lines instead of a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.commands.terminal_chat import answer_as_json, converse, save_rounds
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
        return ChatResult(text=prompt, token_ids=(1,), images=made, result=None)


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


def test_answer_as_json_names_its_files() -> None:
    answer = ChatResult(text="hi", token_ids=(1, 2), images=[], result=None)
    assert answer_as_json(answer, [Path("a.png")]) == {"text": "hi", "token_ids": [1, 2], "images": ["a.png"]}


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
