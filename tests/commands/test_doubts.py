"""Notes on words and sizes that nano wasn't trained for; none about other models."""

from __future__ import annotations

from pathlib import Path

from tests.commands.command import Command

ONE_STEP = ("--steps", 1, "--backend", "ort-cpu", "--threads", 1)


def test_generate_notes_words_and_sizes_that_nano_does_not_know(command: Command, tmp_path: Path) -> None:
    finished = command("generate", "a cat on a red square", "--width", 96, "--out", tmp_path / "a.png", *ONE_STEP)
    assert finished.code == 0
    words, size = (line for line in finished.err.splitlines() if line.startswith("note: "))
    assert words.startswith("note: nano doesn't know 'cat' and may draw anything")
    assert size == "note: nano was trained for pictures of 128 x 128, 192 x 128, 128 x 192 px and often fails at 96 x 128"


def test_generate_notes_nothing_about_what_nano_knows(command: Command, tmp_path: Path) -> None:
    finished = command("generate", "a red square on white", "--out", tmp_path / "a.png", *ONE_STEP)
    assert finished.code == 0 and "note: " not in finished.err


def test_generate_notes_nothing_about_another_model(command: Command, bundles: dict[str, Path], tmp_path: Path) -> None:
    words = ("generate", "a cat", "--bundle", bundles["B"], "--width", 32, "--height", 32, "--out", tmp_path / "a.png")
    finished = command(*words, *ONE_STEP)
    assert finished.code == 0 and "note: " not in finished.err


def test_chat_notes_words_that_nano_does_not_know(command: Command) -> None:
    finished = command("chat", "what colour is the elephant?", "--backend", "ort-cpu", "--threads", 1)
    assert finished.code == 0 and "note: nano doesn't know 'elephant'" in finished.err
