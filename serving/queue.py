"""The queue before an engine: bounded, fair among keys. Knows neither what a job computes nor where.

While fewer than `max_active` jobs are under way, another is admitted: of the key that has the fewest, and of equals the one that
waited longest. Jobs of low priority are admitted while no other waits.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from .errors import ApiError
from .jobs import Job

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
        self._job_seconds = 1.0
        self._is_holding = False
        self._changed = threading.Condition()

    def submit(self, job: Job, *, is_accepted: bool = False) -> None:
        """Queue a job. Raises ApiError where the queue is full. is_accepted: it was, by an earlier run of the server."""
        with self._changed:
            if len(self._queued) >= self._max_queue and not is_accepted:
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
    def close(self) -> None:
        """Carry out nothing any more, and end the threads."""

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
        while self._queued and len(self._under_way) < self._max_active and not self._is_holding:
            job = min(self._queued, key=self._rank)
            self._queued.remove(job)
            self._admitted += 1
            self._admissions[job.owner] = self._admitted
            job.start()
            self._under_way.append(job)
            admitted.append(job)
            self._number()
        return admitted

    def _leave(self, job: Job) -> None:
        """Note that a job is under way no more."""
        self._under_way.remove(job)
        self._job_seconds += (time.time() - job.created - self._job_seconds) / 8

    def _rank(self, job: Job) -> tuple[bool, int, int]:
        """A job's place in the order of admission. Jobs of equal rank are admitted as they came."""
        return job.is_low, self._under_way_of(job.owner), self._admissions.get(job.owner, 0)

    def _under_way_of(self, owner: str) -> int:
        return sum(job.owner == owner for job in self._under_way)

    def _number(self) -> None:
        for job, position in zip(self._in_order(), range(1, len(self._queued) + 1), strict=True):
            job.wait_at(position)

    def _in_order(self) -> Sequence[Job]:
        """The waiting jobs in the order in which they would be admitted if they ended one after another."""
        taken: dict[str, int] = {}
        places: list[tuple[bool, int, int, Job]] = []
        for place, job in enumerate(self._queued):
            taken[job.owner] = taken.get(job.owner, self._under_way_of(job.owner)) + 1
            places.append((job.is_low, taken[job.owner], place, job))
        return [job for *_, job in sorted(places, key=lambda each: each[:3])]

    def _retry_s(self) -> int:
        """Seconds until there may be room in the queue."""
        return max(1, min(LONGEST_RETRY_S, round(self._job_seconds / max(1, self._max_queue))))
