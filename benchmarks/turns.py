"""The worker's end of the pipe to `against_original.py`. A worker computes only during its turns.

Messages are lines of JSON. The worker introduces itself and receives a job. After each step it reports the computing time and
waits for a line. Imports only the standard library, so that the original's interpreter can run it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from typing import Any


class Turns:
    """The message channel on standard output. Output of libraries is redirected to standard error."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._started = 0.0

    def introduce(self, description: dict[str, Any]) -> None:
        """Report that everything is loaded, with a description of the worker."""
        self._send(description)

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Jobs, until the other end closes the pipe."""
        while line := sys.stdin.readline():
            self._started = time.perf_counter()
            yield json.loads(line)

    def end_step(self) -> None:
        """End the turn and wait for the next one. Exits if the other end has closed the pipe."""
        self._send({"seconds": time.perf_counter() - self._started})
        if not sys.stdin.readline():
            sys.exit("the pipe is closed")
        self._started = time.perf_counter()

    def end_job(self, result: dict[str, Any]) -> None:
        """End the last turn of a job with its result."""
        self._send({"seconds": time.perf_counter() - self._started, "result": result})

    def _send(self, message: dict[str, Any]) -> None:
        print(json.dumps(message), file=self._answers, flush=True)
