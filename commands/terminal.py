"""Output for people: nested facts as lines or JSON, and progress with the time left. Knows nothing of drawing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import typer

from ..runtime.errors import RequestError
from ..runtime.files.writing import write_whole


def say(text: str) -> None:
    """Print a piece of an answer as it comes."""
    typer.echo(text, nl=False)


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print nested facts as JSON or as indented lines."""
    typer.echo(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else "\n".join(fact_lines(facts)))


def fact_lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Nested facts, a line each."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", *fact_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return lines


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write figures to a file, if there is one, whole or not at all. Raises RequestError where that can't be done."""
    if path is None:
        return
    text = json.dumps(data, indent=1) + "\n"
    try:
        if path.exists() and not path.is_file():  # a device, such as a pipe: there is nothing to replace
            path.write_text(text, encoding="utf-8")
        else:
            write_whole(path, text)
    except OSError as error:
        raise RequestError(f"can't write {str(path)!r}: {error.strerror or error}") from error


class ProgressLine:
    """Progress with the time left, on stderr: one line that is rewritten on a terminal, a few plain lines elsewhere."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._started = clock()
        self._shown_tenth = self._done = -1
        self._is_shown = False
        self._live = self._stream.isatty()

    def show(self, done: int, total: int, what: str) -> None:
        """A `Progress`. Fewer pieces done than before: other work begins."""
        self._is_shown = True
        if done < self._done:
            self._started, self._shown_tenth = self._clock(), -1
        self._done = done
        left = (self._clock() - self._started) * (total - done) / done if done else None
        time_left = "" if left is None else f", {left:.0f} s left"
        tenth = 10 * done // max(total, 1)
        if self._live:
            filled = 24 * done // max(total, 1)
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {done}/{total} {what}{time_left}")
            self._stream.flush()
        elif tenth > self._shown_tenth:
            self._shown_tenth = tenth
            self._stream.write(f"{done}/{total} {what}{time_left}\n")

    def end(self) -> None:
        """Clear the line, if it was shown."""
        if self._live and self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._is_shown = False
