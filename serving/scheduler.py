"""Shares one engine among jobs: a fair queue before it, and turns on it, a step or a token at a time.

Each active job runs on a thread of its own, which works only while it holds the turn: exactly one does. A job's work is therefore
written straight through, with `turn.pause()` between two steps. Knows nothing of what a job computes.

The keys share the engine by deficit round robin (Shreedhar and Varghese 1995): each round a key gets credit, in seconds, and the
time of its jobs' steps is taken from it; the key of a job that has ended goes to the end of the round. Jobs of low priority are
admitted, and get turns, while no other can use them.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ..runtime.errors import Cancelled
from .errors import ApiError, as_api_error
from .jobs import Job

CREDIT_S = 0.1
"""A key's credit of one round. A longer step is paid off over several rounds."""
SLICE_S = 0.1
"""A turn lasts this long, or a step where that takes longer: passing the engine on between short steps would slow them."""
LONGEST_RETRY_S = 120
"""OpenAI's client does not retry where `Retry-After` is longer."""


class Turn:
    """An active job's place at the engine. Its thread works between `pause`s and after `leave` needs the engine no more.

    slice_s: how long it may work in a row; a step is always finished.
    """

    def __init__(self, job: Job, work: Callable[[Job, Turn], None], slice_s: float) -> None:
        self.job = job
        self.has_left = False
        self._work = work
        self._slice_s = slice_s
        self._ends = 0.0
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=f"job {job.id[-6:]}", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Let other jobs go on, if the turn is over, until the next one. Raises Cancelled where the job was cancelled."""
        if time.perf_counter() >= self._ends:
            self._back.release()
            self._go.acquire()
        self.check()

    def shorten(self) -> None:
        """End the turn with the step under way. For any thread."""
        self._ends = 0.0

    def check(self) -> None:
        """Raises Cancelled where the job was cancelled."""
        if self.job.cancel_requested.is_set():
            raise Cancelled("the job was cancelled")

    def leave(self) -> None:
        """Give up the engine for good."""
        if not self.has_left:
            self.has_left = True
            self._back.release()

    def take(self) -> float:
        """Let the job work for a turn. Returns the seconds that took. For the scheduler's thread."""
        started = time.perf_counter()
        self._ends = started + self._slice_s
        self._go.release()
        self._back.acquire()
        return time.perf_counter() - started

    def _run(self) -> None:
        self._go.acquire()
        try:
            self.check()
            self._work(self.job, self)
        except Cancelled:
            self.leave()
            self.job.end("cancelled")
        except BaseException as error:  # a thread's end: whatever it was is the job's error
            self.leave()
            self.job.end("failed", error=as_api_error(error))
        finally:
            self.leave()


class Scheduler:
    """The queue and the engine's turns. `close` ends it.

    work(job, turn): carries out a job and ends it; what it raises fails the job.
    """

    def __init__(
        self, work: Callable[[Job, Turn], None], *, max_active: int, max_queue: int, slice_s: float = SLICE_S
    ) -> None:
        self._work = work
        self._slice_s = slice_s
        self._max_active = max_active
        self._max_queue = max_queue
        self._queued: list[Job] = []
        self._active: list[Turn] = []
        self._credits: OrderedDict[str, float] = OrderedDict()
        self._admissions: dict[str, int] = {}
        self._admitted = 0
        self._job_seconds = 1.0
        self._is_holding = False
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job, *, is_accepted: bool = False) -> None:
        """Queue a job. Raises ApiError where the queue is full. is_accepted: it was, by an earlier run of the server."""
        with self._changed:
            if len(self._queued) >= self._max_queue and not is_accepted:
                raise ApiError("queue_full", f"{len(self._queued)} requests wait already: try again later", None, self._retry_s())
            self._queued.append(job)
            self._number_queue()
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once while it waits, after the step under way while it runs."""
        job.cancel_requested.set()
        with self._changed:
            is_waiting = job in self._queued
            if is_waiting:
                self._queued.remove(job)
                self._number_queue()
            for turn in self._active:  # it may have to wait for another one's turn to end
                turn.shorten()
        if is_waiting:
            job.end("cancelled")

    def hold(self) -> list[Job]:
        """Admit no job any more; those under way go on. Returns the jobs that wait."""
        with self._changed:
            self._is_holding = True
            return list(self._queued)

    def close(self) -> None:
        """Give no turn any more, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    @property
    def queued(self) -> int:
        return len(self._queued)

    @property
    def active(self) -> int:
        return len(self._active)

    def _loop(self) -> None:
        while (turn := self._wait_for_turn()) is not None:
            seconds = turn.take()
            with self._changed:
                self._credits[turn.job.owner] = self._credits.get(turn.job.owner, 0.0) - seconds
                self._active.remove(turn)
                if not turn.has_left:
                    self._active.append(turn)
                else:
                    self._credits.move_to_end(turn.job.owner)
                    self._job_seconds += (time.time() - turn.job.created - self._job_seconds) / 8

    def _wait_for_turn(self) -> Turn | None:
        """The next turn to take; None at the end."""
        with self._changed:
            while not self._is_closed:
                self._admit()
                if self._active:
                    return self._next_turn()
                self._changed.wait()
            return None

    def _admit(self) -> None:
        """Start queued jobs while there is room: those of the key that has the fewest, and of equals waited longest."""
        while self._queued and len(self._active) < self._max_active and not self._is_holding:
            job = min(self._queued, key=self._rank)
            self._queued.remove(job)
            self._admitted += 1
            self._admissions[job.owner] = self._admitted
            job.start()
            self._active.append(Turn(job, self._work, self._slice_s))
            self._number_queue()

    def _rank(self, job: Job) -> tuple[bool, int, int]:
        """A job's place in the order of admission. Jobs of equal rank are admitted as they came."""
        under_way = sum(turn.job.owner == job.owner for turn in self._active)
        return job.is_low, under_way, self._admissions.get(job.owner, 0)

    def _next_turn(self) -> Turn:
        """The turn that is next by priority and its key's credit. A key's own jobs take turns."""
        for turn in self._active:
            if turn.job.cancel_requested.is_set():
                return turn
        turns = [turn for turn in self._active if not turn.job.is_low] or self._active
        owner = self._next_owner({turn.job.owner for turn in turns})
        return next(turn for turn in turns if turn.job.owner == owner)

    def _next_owner(self, owners: set[str]) -> str:
        self._credits = OrderedDict((owner, credit) for owner, credit in self._credits.items() if owner in owners)
        for owner in owners:
            self._credits.setdefault(owner, 0.0)
        if len(owners) == 1:  # nobody to be fair to
            (owner,) = owners
            self._credits[owner] = 0.0
            return owner
        while True:
            owner, credit = next(iter(self._credits.items()))
            if credit > 0:
                return owner
            self._credits[owner] = credit + CREDIT_S
            self._credits.move_to_end(owner)

    def _number_queue(self) -> None:
        for job, position in zip(self._in_order(), range(1, len(self._queued) + 1), strict=True):
            job.wait_at(position)

    def _in_order(self) -> Sequence[Job]:
        """The waiting jobs in the order in which they would be admitted if they ended one after another."""
        taken: dict[str, int] = {}
        places: list[tuple[bool, int, int, Job]] = []
        for place, job in enumerate(self._queued):
            taken[job.owner] = taken.get(job.owner, sum(turn.job.owner == job.owner for turn in self._active)) + 1
            places.append((job.is_low, taken[job.owner], place, job))
        return [job for *_, job in sorted(places, key=lambda each: each[:3])]

    def _retry_s(self) -> int:
        """Seconds until there may be room in the queue."""
        return max(1, min(LONGEST_RETRY_S, round(self._job_seconds / max(1, self._max_queue))))
