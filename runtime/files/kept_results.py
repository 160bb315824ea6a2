"""Results of slow work by key, in a file of lines that grows as they come, so that a stopped run goes on from there.

Knows nothing of what the results mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from ..errors import RequestError
from .json_text import json_hash, parse_object
from .lines import check_last_line, go_behind_last_line, read_lines
from .locking import open_lock, try_lock

LINE_BEGIN = b'{"key": "'
"""The beginning of every line."""

T = TypeVar("T", str, float)


class KeptResults:
    """A file of results. One process at a time works with it; another one is refused. Close it at the end."""

    def __init__(self, path: Path) -> None:
        """Open the file, made where it is missing. Raises RequestError where it can't be, or another process works with it."""
        self._path = path
        try:
            self._file = open_lock(path)
        except (OSError, ValueError) as error:
            raise RequestError(f"{str(path)!r} can't be written: {getattr(error, 'strerror', None) or error}") from error
        with suppress(OSError):  # a filesystem without locks
            if not try_lock(self._file.fileno()):
                self._file.close()
                raise RequestError(f"another process is working on {str(path.parent)!r}: wait for its end")
        self._results: dict[str, str | float] = {}
        for line in read_lines(self._file):
            self._remember(line)
        try:
            check_last_line(self._file, LINE_BEGIN)
        except OSError as error:
            self._file.close()
            raise RequestError(f"{str(path)!r} can't be written: {error.strerror or error}") from error

    def get(self, facts: object, compute: Callable[[], T]) -> T:
        """The result that belongs to `facts`, a JSON value: kept, or computed and kept. Raises as `compute` does."""
        key = json_hash(facts)
        if key not in self._results:
            self._keep(key, compute())
        return self._results[key]  # type: ignore[return-value]

    def close(self) -> None:
        """Unlock the file."""
        self._file.close()

    def _keep(self, key: str, result: str | float) -> None:
        self._results[key] = result
        try:
            go_behind_last_line(self._file, LINE_BEGIN)
            self._file.write(json.dumps({"key": key, "result": result}, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise RequestError(f"{str(self._path)!r} can't be written: {error.strerror or error}") from error

    def _remember(self, line: bytes) -> None:
        """Take a whole line, with or without its line end. Anything else is computed again."""
        with suppress(ValueError, KeyError):
            entry = parse_object(line)
            if isinstance(entry["result"], str | float) and isinstance(entry["key"], str):
                self._results[entry["key"]] = entry["result"]
