"""The queue before an engine: bounded, fair among keys. Knows neither what a job computes nor where.

While fewer than `max_active` jobs are under way, another is admitted: of the key that has the fewest, and of equals the one that
waited longest. Jobs of low priority are admitted while no other waits.
"""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from .errors import ApiError
from .jobs import Job

_Rank = tuple[bool, int, int]
LONGEST_RETRY_S = 120
"""OpenAI's client does not retry where `Retry-After` is longer."""


class Queue(ABC):
    """Jobs that wait, and those under way. A subclass carries them out, and holds `_changed` while it admits or removes one."""

    def __init__(self, *, max_active: int, max_queue: int) -> None:
        self._max_active = max_active
        self._max_queue = max_queue
        self._queued: list[Job] = []
        self._under_way: list[Job] = []
        self._admissions: dict[str, int] = {}
        self._admitted = 0
        self._seconds_between = 1.0
        self._last_left = self._promised = 0.0
        self._is_holding = False
        self._changed = threading.Condition()

    def submit(self, job: Job, *, is_accepted: bool = False) -> None:
        """Queue a job. Raises ApiError where the queue is full. is_accepted: it was, by an earlier run of the server."""
        with self._changed:
            if len(self._queued) >= self._max_queue + self._room() and not is_accepted:
                message = f"the queue is full ({len(self._queued)} requests): try again later"
                raise ApiError("queue_full", message, None, self._retry_s())
            self._queued.append(job)
            self._number()
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once while it waits, after the step under way while it runs."""
        job.cancel_requested.set()
        with self._changed:
            is_waiting = job in self._queued
            if is_waiting:
                self._queued.remove(job)
                self._number()
        if is_waiting:
            job.end("cancelled")

    def hold(self) -> list[Job]:
        """Admit no job any more; those under way go on. Returns the jobs that wait."""
        with self._changed:
            self._is_holding = True
            return list(self._queued)

    @abstractmethod
    def close(self) -> bool:
        """Carry out nothing any more, and end the threads. Returns whether the step under way has ended too."""

    def facts(self) -> dict[str, Any]:
        """The part of `/v1/capabilities` about what carries out the jobs, as JSON values."""
        return {}

    @property
    def queued(self) -> int:
        return len(self._queued)

    @property
    def active(self) -> int:
        return len(self._under_way)

    def _admit(self) -> list[Job]:
        """Start queued jobs while there is room, and return them."""
        admitted = []
        while self._queued and self._room():
            job = min(self._queued, key=self._rank)
            self._queued.remove(job)
            self._admitted += 1
            self._admissions[job.owner] = self._admitted
            job.start()
            self._under_way.append(job)
            admitted.append(job)
            self._number()
        return admitted

    def _room(self) -> int:
        """The number of jobs that would be admitted now. Those that came since the last admission are still in the queue."""
        return 0 if self._is_holding else self._max_active - len(self._under_way)

    def _leave(self, job: Job) -> None:
        """Note that a job is under way no more."""
        self._under_way.remove(job)
        now = time.time()
        seconds = max(0.0, now - max(self._last_left, job.started or now))
        self._seconds_between += (seconds - self._seconds_between) / 8
        self._last_left = now

    def _rank(self, job: Job) -> _Rank:
        """A job's place in the order of admission. Jobs of equal rank are admitted as they came."""
        return job.is_low, sum(job.owner == other.owner for other in self._under_way), self._admissions.get(job.owner, 0)

    def _number(self) -> None:
        for position, job in enumerate(self._in_order(), 1):
            job.wait_at(position)

    def _in_order(self) -> Iterator[Job]:
        """The waiting jobs in the order in which they are admitted if those under way end in the order in which they began."""
        lines: dict[tuple[bool, str], deque[tuple[int, Job]]] = {}  # each key's, with the jobs' places by arrival
        for place, job in enumerate(self._queued):
            lines.setdefault((job.is_low, job.owner), deque()).append((place, job))
        under_way = deque(job.owner for job in self._under_way)
        busy, admissions, admitted = Counter(under_way), dict(self._admissions), self._admitted
        while lines:
            if len(under_way) >= self._max_active:
                busy[under_way.popleft()] -= 1
            _, _, _, (_, job), line = min(
                (is_low, busy[owner], admissions.get(owner, 0), line[0], line) for (is_low, owner), line in lines.items()
            )
            line.popleft()
            if not line:
                del lines[job.is_low, job.owner]
            yield job
            owner, admitted = job.owner, admitted + 1
            admissions[owner] = admitted
            busy[owner] += 1
            under_way.append(owner)

    def _retry_s(self) -> int:
        """Seconds until there may be room in the queue for another one. Each caller that asks is given a later time."""
        now = time.time()
        self._promised = min(max(self._promised, now) + self._seconds_between, now + LONGEST_RETRY_S)
        return max(1, math.ceil(self._promised - now))
