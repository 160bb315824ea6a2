"""A worker's end of the pipe to `against_original.py`: it computes only while it has the turn.

A JSON line a message. The worker says what it is, gets a job, and says after each step how long it computed; then it waits for a
line before it goes on. Imports nothing but Python's own, so that the original's interpreter can run it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any


class Turns:
    """Takes standard output for the messages; what libraries print goes to standard error from now on."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._started = 0.0

    def introduce(self, facts: dict[str, Any]) -> None:
        """Ready: everything is loaded."""
        self._say(facts)

    def jobs(self) -> Iterator[dict[str, Any]]:
        """The jobs, until the other end closes the pipe."""
        while line := sys.stdin.readline():
            self._started = time.perf_counter()
            yield json.loads(line)

    def end_step(self) -> None:
        """Give the turn away; returns when it comes back. Ends the process where nobody is left to give it."""
        self._say({"seconds": time.perf_counter() - self._started})
        if not sys.stdin.readline():
            sys.exit("nobody listens any more")
        self._started = time.perf_counter()

    def end_job(self, found: dict[str, Any]) -> None:
        """The last turn of a job, and what else there is to say of it."""
        self._say({"seconds": time.perf_counter() - self._started, "found": found})

    def _say(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._answers, flush=True)
