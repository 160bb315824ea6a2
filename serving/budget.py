"""A count of the bytes of requests that the server holds: bodies that arrive, and those of jobs that wait or run."""

from __future__ import annotations

import threading
from collections import Counter

from .errors import ApiError
from .settings import MEGABYTE


class ByteBudget:
    """A count of bytes up to a limit; a key's own are at most half of it. For any thread."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def count(self) -> int:
        """The bytes that are held."""
        with self._lock:
            return self._held.total()

    def take(self, owner: str, count: int, *, is_accepted: bool = False) -> None:
        """Count bytes as held for a key. Raises ApiError where that is too many. is_accepted: an earlier run took them."""
        with self._lock:
            own, total = self._held[owner] + count, self._held.total() + count
            if (total > self._most or own > self._most // 2) and not is_accepted:
                whose, most = ("this key", self._most // 2) if total <= self._most else ("all callers", self._most)
                message = f"the unfinished requests of {whose} would be more than {most / MEGABYTE:g} MB: try again later"
                raise ApiError("queue_full", message, None, 10)
            self._held[owner] = own

    def give(self, owner: str, count: int) -> None:
        """Count bytes as held no more."""
        with self._lock:
            self._held[owner] -= count
            if not self._held[owner]:
                del self._held[owner]
