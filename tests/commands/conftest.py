"""The command in this process, and a small drawing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.command import Command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def draw(bundles: dict[str, Path]) -> tuple[object, ...]:
    """`generate` with its bundle and a size and steps that take a moment."""
    small = ("--height", 32, "--width", 32, "--steps", 2, "--precision", "fp32", "--threads", 1)
    return ("generate", "a red square", "--bundle", bundles["A"], *small)
