"""Shares one engine among jobs: turns on it, a step or a token at a time.

Each active job runs on a thread of its own, which works only while it holds the turn: exactly one does. A job's work is therefore
written straight through, with `turn.pause()` between two steps. Knows nothing of what a job computes.

The keys share the engine by deficit round robin (Shreedhar and Varghese 1995): each round a key gets credit, in seconds, and the
time of its jobs' steps is taken from it; the key of a job that has ended goes to the end of the round. Jobs of low priority get
turns while no other can use them.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from ..runtime.errors import Cancelled
from .errors import as_api_error
from .jobs import Job
from .queue import Queue

CREDIT_S = 0.1
"""A key's credit of one round. A longer step is paid off over several rounds."""
SLICE_S = 0.1
"""A turn lasts this long, or a step where that takes longer: passing the engine on between short steps would slow them."""
CLOSE_S = 2.0
"""The longest wait for the end of a step. A step of a large model may take minutes."""
SWITCH_INTERVAL_S = 0.0005
"""The time that Python lets a thread compute while another waits, where a scheduler runs. By default 5 ms: the engine's thread
would wait that long to start its next graph while a request is read."""


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


class Scheduler(Queue):
    """A queue whose jobs take turns on one engine. `close` ends it.

    work(job, turn): carries out a job and ends it; what it raises fails the job.
    """

    def __init__(
        self, work: Callable[[Job, Turn], None], *, max_active: int, max_queue: int, slice_s: float = SLICE_S
    ) -> None:
        super().__init__(max_active=max_active, max_queue=max_queue)
        self._work = work
        self._slice_s = slice_s
        self._turns: list[Turn] = []
        self._credits: OrderedDict[str, float] = OrderedDict()
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once while it waits, after the step under way while it runs."""
        super().cancel(job)
        with self._changed:
            for turn in self._turns:  # it may have to wait for another one's turn to end
                turn.shorten()

    def close(self) -> bool:
        """Give no turn any more, and end the thread. Returns whether the step under way has ended too."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (turn := self._wait_for_turn()) is not None:
            seconds = turn.take()
            with self._changed:
                self._credits[turn.job.owner] = self._credits.get(turn.job.owner, 0.0) - seconds
                self._turns.remove(turn)
                if not turn.has_left:
                    self._turns.append(turn)
                else:
                    self._credits.move_to_end(turn.job.owner)
                    self._leave(turn.job)

    def _wait_for_turn(self) -> Turn | None:
        """The next turn to take; None at the end."""
        with self._changed:
            while not self._is_closed:
                self._turns += [Turn(job, self._work, self._slice_s) for job in self._admit()]
                if self._turns:
                    return self._next_turn()
                self._changed.wait()
            return None

    def _next_turn(self) -> Turn:
        """The turn that is next by priority and its key's credit. A key's own jobs take turns."""
        for turn in self._turns:
            if turn.job.cancel_requested.is_set():
                return turn
        turns = [turn for turn in self._turns if not turn.job.is_low] or self._turns
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
