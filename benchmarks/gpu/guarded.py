"""Figures that are kept as soon as they are measured, and sections whose failures end nothing but themselves.

A section is a process of its own: an engine that crashes, or a kernel that never returns, costs its section alone, and the next
one finds the GPU's memory free. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omnigen2_rt.runtime.errors import OmniGen2Error
from omnigen2_rt.runtime.files.writing import write_whole

LAST_LINES = 8
"""The most lines of a crashed section's output that are kept."""


class Figures:
    """The figures of a section, or of a part of one, by name. `save` is called after each."""

    def __init__(self, values: dict[str, Any], save: Callable[[], object]) -> None:
        self.values = values
        self._save = save

    def add(self, **figures: Any) -> None:
        """Keep figures."""
        self.values |= figures
        self._save()

    @contextmanager
    def part(self, name: str) -> Iterator[Figures]:
        """Figures below `name`. An exception in the block becomes their "problem", and the section goes on."""
        part = Figures(self.values.setdefault(name, {}), self._save)
        try:
            yield part
        except Exception as error:
            part.add(problem=problem_text(error))
        self._save()


def problem_text(error: BaseException) -> str:
    """An error in one line; with its type where the message isn't one of ours."""
    text = " ".join(str(error).split())
    return text if isinstance(error, OmniGen2Error) else f"{type(error).__name__}: {text}"


def json_figures(file: Path) -> Figures:
    """Figures that are in `file` after each one."""
    values: dict[str, Any] = {}
    return Figures(values, lambda: write_whole(file, json.dumps(values)))


def run_section(command: Sequence[str], file: Path, seconds: float) -> dict[str, Any]:
    """Run a section's process, which leaves its figures in `file`. Returns them, with a "problem" where it failed.

    seconds: it is stopped after that.
    """
    started = time.monotonic()
    file.unlink(missing_ok=True)
    problem = None
    try:
        ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=seconds)
        if ended.returncode:
            lines = ended.stdout.decode(errors="replace").strip().splitlines()[-LAST_LINES:]
            problem = " | ".join([f"its process ended with {ended.returncode}", *lines])
    except subprocess.TimeoutExpired:
        problem = f"stopped after {seconds:.0f} s: raise --minutes, or run it alone with --only"
    figures: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    figures["section_s"] = round(time.monotonic() - started, 1)
    return figures if problem is None else {**figures, "problem": problem}
