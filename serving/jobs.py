"""A job: a task on its way from the queue to its outcome, and those who watch it. Knows no HTTP and no engine."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import ApiError
from .requests.bodies import TaskBody

State = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("done", "failed", "cancelled")

Event = dict[str, Any]
"""An event, by its "type": queued, running, step, preview, text, round; then done, failed, cancelled or suspended."""
LAST = (*FINAL, "suspended")
"""The types of the event after which no other comes."""
Watcher = Callable[[Event], object]
"""Called from any thread with each event; must neither wait nor raise."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of a job.

    facts: what JSON can hold: seeds, text, usage, rounds.
    pictures: encoded picture files.
    """

    facts: dict[str, Any]
    pictures: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ending:
    """The end of a job. state: one of `FINAL`. finished: when, in seconds since 1970."""

    state: State
    outcome: Outcome | None = None
    error: ApiError | None = None
    finished: float = field(default_factory=time.time)


@dataclass(kw_only=True, eq=False)
class Job:
    """A task that was accepted.

    owner: the digest of the key that sent it.
    is_kept: whether it outlives the server and its caller; a synchronous call's ends with the call.
    body_bytes: what its body takes of the server's memory, where that is counted.
    keep: called with the ending before anybody hears of it. Returns the ending that stands; must not raise.
    """

    body: TaskBody
    model: str
    owner: str
    is_kept: bool = False
    id: str = field(default_factory=lambda: f"job_{secrets.token_hex(16)}")
    created: float = field(default_factory=time.time)
    body_bytes: int = 0
    started: float | None = None
    position: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    rounds: list[Event] = field(default_factory=list)
    ending: Ending | None = None
    cancel_requested: threading.Event = field(default_factory=threading.Event)
    keep: Callable[[Job, Ending], Ending] | None = None
    _is_ending: bool = False
    _is_suspended: bool = False
    _watchers: list[Watcher] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_low(self) -> bool:
        """Whether it gives way to all jobs of normal priority."""
        return self.body.priority == "low"

    @property
    def state(self) -> State:
        if self.ending is not None:
            return self.ending.state
        return "queued" if self.started is None or self._is_suspended else "running"

    @property
    def outcome(self) -> Outcome | None:
        return self.ending.outcome if self.ending else None

    @property
    def error(self) -> ApiError | None:
        return self.ending.error if self.ending else None

    @property
    def finished(self) -> float | None:
        return self.ending.finished if self.ending else None

    @property
    def is_final(self) -> bool:
        return self.ending is not None

    @property
    def is_watched(self) -> bool:
        return bool(self._watchers)

    def watch(self, watcher: Watcher) -> None:
        """Tell the watcher what is known now, and from then on each event."""
        with self._lock:
            self._watchers.append(watcher)
            for event in self._so_far():
                watcher(event)

    def unwatch(self, watcher: Watcher) -> None:
        with self._lock:
            self._watchers.remove(watcher)

    def publish(self, event: Event) -> None:
        """Tell every watcher. Text and rounds are told to later watchers too."""
        with self._lock:
            if self.is_final or self._is_suspended:
                return
            if event["type"] == "text":
                self.text += event["text"]
            if event["type"] == "round":
                self.rounds.append(event)
            self._tell(event)

    def wait_at(self, position: int) -> None:
        """Note its place in the queue, 1 being the next."""
        if position != self.position:
            self.position = position
            self.publish({"type": "queued", "position": position})

    def start(self) -> None:
        """Note that it is at the engine."""
        self.started, self.position = time.time(), 0
        self.publish({"type": "running"})

    def step(self, done: int, total: int, seconds_left: float) -> None:
        """Note a step of a drawing."""
        self.progress = {"step": done, "steps": total, "seconds_left": round(seconds_left, 2)}
        self.publish({"type": "step", **self.progress})

    def end(self, state: State, *, outcome: Outcome | None = None, error: ApiError | None = None) -> None:
        """End it, once. The ending is kept before anybody hears of it; the lock isn't held meanwhile, for a disk may be slow."""
        with self._lock:
            if self.is_final or self._is_ending or self._is_suspended:
                return
            self._is_ending = True
        ending = Ending(state=state, outcome=outcome, error=error)
        if self.keep is not None:
            ending = self.keep(self, ending)
        with self._lock:
            self.ending, self.position = ending, 0
            self._tell(self._last())

    def suspend(self) -> None:
        """Stop it without an end: it is queued again when the server starts again."""
        with self._lock:
            if not self.is_final and not self._is_ending and not self._is_suspended:
                self._is_suspended, self.position = True, 0
                self._tell({"type": "suspended"})
        self.cancel_requested.set()

    def _so_far(self) -> list[Event]:
        if self.is_final:
            return [self._last()]
        if self._is_suspended:
            return [{"type": "suspended"}]
        if self.state == "queued":
            return [{"type": "queued", "position": self.position}]
        step = [{"type": "step", **self.progress}] if self.progress else [{"type": "running"}]
        return [*step, *self.rounds, *([{"type": "text", "text": self.text}] if self.text else [])]

    def _last(self) -> Event:
        return {"type": self.state, **({"error": self.error.facts()} if self.error else {})}

    def _tell(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher(event)
