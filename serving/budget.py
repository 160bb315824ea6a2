"""How many bytes of requests the server holds: bodies that arrive, and those of jobs that wait or run."""

from __future__ import annotations

import threading

from .errors import ApiError
from .settings import MEGABYTE


class ByteBudget:
    """A count of bytes up to a limit. For any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The bytes that are held."""
        return self._held

    def take(self, count: int, *, is_accepted: bool = False) -> None:
        """Count bytes as held. Raises ApiError where that is too many. is_accepted: an earlier run of the server took them."""
        with self._lock:
            if self._held + count > self._most and not is_accepted:
                message = f"the requests that the server holds are {self._most / MEGABYTE:g} MB: try again later"
                raise ApiError("queue_full", message, None, 10)
            self._held += count

    def give(self, count: int) -> None:
        """Count bytes as held no more."""
        with self._lock:
            self._held -= count
