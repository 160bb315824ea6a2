"""A batch's progress as values. Prints nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The number of rows by outcome.

    total: all rows.
    drawn: drawn in this run.
    kept: drawn in an earlier run, and there.
    failed: without pictures.
    seconds_left: an estimate; None until enough rows are drawn.
    """

    total: int
    drawn: int = 0
    kept: int = 0
    failed: int = 0
    seconds_left: float | None = None

    @property
    def done(self) -> int:
        """Rows that need nothing more."""
        return self.drawn + self.kept + self.failed

    @property
    def left(self) -> int:
        """Rows that are still to come."""
        return self.total - self.done


class Estimate:
    """The time left, from the pace at which rows were drawn. The first one, which also opens the engine, doesn't count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._first: float | None = None
        self._count = 0

    def count(self) -> None:
        """Count a row that was drawn now."""
        self._count += 1
        if self._first is None:
            self._first = self._clock()

    def seconds_left(self, rows: int) -> float | None:
        """The seconds that so many rows take, or None where that isn't known yet."""
        if self._first is None or self._count < 2:
            return None
        return (self._clock() - self._first) / (self._count - 1) * rows
