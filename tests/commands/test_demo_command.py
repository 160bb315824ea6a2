"""`omnigen2 demo`: the model that ships, without a bundle's name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from omnigen2_rt.nano.demo import DEMO_REQUESTS
from tests.commands.command import Command


def test_demo_command_leaves_its_sheet(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnigen2_rt.nano.demo.DEMO_REQUESTS", DEMO_REQUESTS[:1])
    monkeypatch.setattr("omnigen2_rt.nano.demo.DEMO_TALK", ("hello", "draw a small red circle on blue"))
    finished = command("demo", "--out", tmp_path / "sheet.png", "--backend", "ort-cpu", "--threads", 1)
    assert (finished.code, finished.out) == (0, f"{tmp_path / 'sheet.png'}\n")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 128
    assert "must end in .png" in command.fails("demo", "--out", tmp_path / "sheet.jpg")
