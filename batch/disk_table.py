"""A table of texts in a temporary file, so that a batch's memory doesn't grow with its rows."""

from __future__ import annotations

import errno
import sqlite3
from typing import Any

CACHE_KB = 2048
SETTINGS = (f"PRAGMA cache_size = -{CACHE_KB}", "PRAGMA synchronous = OFF", "PRAGMA journal_mode = OFF")


class DiskTable:
    """Texts by key. Its file is removed when it is closed or the process ends. For the thread that made it.

    Raises OSError where the temporary file can't be written.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a private file, which SQLite removes as it opens it
        for setting in SETTINGS:
            self._run(setting)
        self._run("CREATE TABLE texts (key TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID")

    def __getitem__(self, key: str) -> str | None:
        """The text of a key, or None."""
        found = self._run("SELECT text FROM texts WHERE key = ?", key)
        return None if found is None else str(found[0])

    def __setitem__(self, key: str, text: str) -> None:
        self._run("INSERT OR REPLACE INTO texts VALUES (?, ?)", key, text)

    def add(self, key: str, text: str) -> str | None:
        """Add a text under a new key. Returns the text that the key has already, or None."""
        there = self[key]
        if there is None:
            self[key] = text
        return there

    def close(self) -> None:
        """Free the file."""
        self._database.close()

    def _run(self, statement: str, *values: str) -> Any:
        try:
            return self._database.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            reason = f"the batch's temporary file can't be written: {error}"
            raise OSError(errno.EIO, reason) from error
