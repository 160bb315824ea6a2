"""Runs the command as `main` does, in this process: exit code, standard output, standard error."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from omnigen2_rt.cli import main


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str

    @property
    def error_lines(self) -> list[str]:
        """The lines on stderr, progress left out."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]


class Command:
    """`command("info", path)`; everything printed before is forgotten."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *words: object) -> Finished:
        self._monkeypatch.setattr(sys, "argv", ["omnigen2", *map(str, words)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = self._capsys.readouterr()
        return Finished(int(end.value.code or 0), said.out, said.err)

    def fails(self, *words: object) -> str:
        """The one error line of a command that must exit with 1."""
        finished = self(*words)
        assert finished.code == 1, finished
        assert len(finished.error_lines) == 1 and finished.err.endswith(finished.error_lines[0] + "\n"), finished.err
        assert "Traceback" not in finished.err
        return finished.error_lines[0]
