"""Output for people: nested facts as lines or JSON, figures in files, progress with the time left. Knows nothing of drawing.

Texts come from files of anyone: what a terminal would execute is shown as an escape.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TextIO

import typer

from ..runtime.errors import OmniGen2Error, RequestError
from ..runtime.files.writing import write_whole

_NOT_SHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and line end, other line ends, changes of the direction of writing, halves of characters."""
_ENDS = re.compile(r"[\t\n]")

LEAST_PIECES = 6
"""Work of fewer pieces gets no estimate: these are stages."""
COUNTED_PIECES, COUNTED_S = 2, 1.0
"""The pieces and the seconds, after the first piece, before the time left is shown."""


def say(text: str) -> None:
    """Print a piece of an answer as it comes."""
    typer.echo(printable(text), nl=False)


def note(text: str) -> None:
    """Print a note on standard error."""
    typer.echo(printable(f"note: {text}"), err=True)


def say_lines(text: str) -> None:
    """Print whole lines."""
    typer.echo(printable(text))


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print nested facts as JSON or as indented lines. Raises RequestError where they are nested too deeply."""
    try:
        text = _json_text(facts) if as_json else "\n".join(fact_lines(facts))
    except RecursionError:
        raise RequestError("what the file holds is nested too deeply to be shown") from None
    typer.echo(text)


def fact_lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Nested facts, a line each, whatever they hold: a prompt's line ends are shown as escapes."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{_in_a_line(name)}:", *fact_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{_in_a_line(name)}: {_in_a_line(value)}")
    return lines


def printable(text: str) -> str:
    """Text with escapes in place of what a terminal would execute, or take as an order of writing. Line ends and tabs stay."""
    return _NOT_SHOWN.sub(_escape, text)


def _in_a_line(value: object) -> str:
    return _ENDS.sub(_escape, printable(str(value)))


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape", "surrogatepass").decode()


def _json_text(facts: dict[str, Any]) -> str:
    """JSON that holds as it is what every terminal shows as it is."""
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    text = json.dumps(facts, indent=1, ensure_ascii=not is_unicode)
    return _NOT_SHOWN.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def error_message(error: Exception) -> str:
    """The words for an error that ends the command; a file's names the file."""
    if isinstance(error, OmniGen2Error):
        return str(error)
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return reason if error.filename is None else f"{str(error.filename)!r}: {reason}"
    return f"{type(error).__name__}: {error}; this is a fault of omnigen2, and `omnigen2 --debug …` shows where"


def check_json_file(path: Path | None) -> None:
    """Raises RequestError, before there are figures, where they couldn't be written to the file. It stays as it is."""
    if path is None:
        return
    try:
        if _is_folder(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not _is_device(path):
            TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _unwritable(path, error) from error


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write figures to a file, if there is one, whole or not at all. Raises RequestError where that can't be done."""
    if path is None:
        return
    text = json.dumps(data, indent=1) + "\n"
    try:
        if _is_device(path):
            with path.open("a", encoding="utf-8") as device:
                device.write(text)
        else:
            write_whole(path, text)
    except OSError as error:
        raise _unwritable(path, error) from error


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except FileNotFoundError:
        return False


def _is_device(path: Path) -> bool:
    """Whether there is nothing to replace: a pipe, a terminal, or a name such as /dev/stdout for a file that is open already."""
    return path.parent in (Path("/dev"), Path("/dev/fd")) or (path.exists() and not path.is_file())


def _unwritable(path: Path, error: OSError) -> RequestError:
    return RequestError(f"can't write {str(path)!r}: {error.strerror or error}")


class ProgressLine:
    """Progress on stderr: one line that is rewritten on a terminal, a few plain lines elsewhere.

    The time left is shown where it is known: the first piece, which also opens files and components, doesn't count, and a few
    stages of different kinds say nothing of each other. estimates: whether it is shown; a caller may know better.
    """

    def __init__(
        self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic, *, estimates: bool = True
    ) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._estimates = estimates
        self._begin()
        self._done = -1
        self._is_shown = False
        self._live = self._stream.isatty()

    def _begin(self) -> None:
        self._shown_tenth = -1
        self._mark: tuple[int, float] | None = None

    def show(self, done: int, total: int, what: str) -> None:
        """A `Progress`. Fewer pieces done than before: other work begins."""
        self._is_shown = True
        if done < self._done:
            self._begin()
        self._done = done
        text = f"{done}/{total} {_in_a_line(what)}{self._time_left(done, total) if self._estimates else ''}"
        tenth = 10 * done // max(total, 1)
        if self._live:
            filled = 24 * done // max(total, 1)
            self._stream.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {text}")
            self._stream.flush()
        elif tenth > self._shown_tenth:
            self._shown_tenth = tenth
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def _time_left(self, done: int, total: int) -> str:
        now = self._clock()
        if self._mark is None and done > 0:
            self._mark = done, now
        if self._mark is None or total < LEAST_PIECES or done == total:
            return ""
        pieces, seconds = done - self._mark[0], now - self._mark[1]
        if pieces < COUNTED_PIECES or seconds < COUNTED_S:
            return ""
        return f", {seconds * (total - done) / pieces:.0f} s left"

    def end(self) -> None:
        """Clear the line, if it was shown."""
        if self._live and self._is_shown:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._is_shown = False
