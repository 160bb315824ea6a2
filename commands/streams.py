"""The command's standard streams: open even where the shell closed them, able to print any text, and usable without a reader.

What was computed is saved before the command ends, so a failed write ends nothing: it is kept, and `main` reports it at the end.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


class LastingStream(io.TextIOBase):
    """A stream to print to. After a write that fails, text is dropped.

    failure: that write's error; None while all goes well.
    """

    def __init__(self, stream: TextIO) -> None:
        self.failure: OSError | None = None
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):  # a console of another alphabet shows what it lacks as escapes
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        """Write, unless a write failed before."""
        if self.failure is None:
            try:
                return self._stream.write(text)
            except OSError as error:
                self._fail(error)
        return len(text)

    def flush(self) -> None:
        """Flush, unless a write failed before."""
        if self.failure is None:
            try:
                self._stream.flush()
            except OSError as error:
                self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failure = error
        with suppress(OSError):  # Python flushes what is left at its end
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._stream.errors

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextmanager
def lasting_streams() -> Iterator[LastingStream]:
    """Standard output for the block, in place of `sys.stdout`. Standard error lasts likewise; standard input takes any bytes."""
    _open_closed_streams()
    if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no text become a question that is refused
        sys.stdin.reconfigure(errors="surrogateescape")
    output: Any = LastingStream(sys.stdout)
    errors: Any = LastingStream(sys.stderr)
    with redirect_stdout(output), redirect_stderr(errors):
        yield output


def _open_closed_streams() -> None:
    """Put the null device where a stream is closed: the next file would take its number, and libraries would print into it."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
