"""A job: a task on its way from the queue to its outcome, and those who watch it. Knows no HTTP and no engine."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from .bodies import TaskBody
from .errors import ApiError, as_api_error

State = Literal["queued", "running", "done", "failed", "cancelled"]
FINAL: tuple[State, ...] = ("done", "failed", "cancelled")

Event = dict[str, Any]
"""What a watcher sees, by "type": queued, step, preview, text, round, done, failed, cancelled."""
Watcher = Callable[[Event], object]
"""Called from any thread with each event; must neither wait nor raise."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What comes of a job.

    facts: what JSON can hold: seeds, text, usage, rounds.
    pictures: encoded picture files.
    """

    facts: dict[str, Any]
    pictures: tuple[bytes, ...] = ()


@dataclass(kw_only=True, eq=False)
class Job:
    """A task that was accepted.

    owner: the digest of the key that sent it.
    is_kept: whether it outlives the server and its caller; a synchronous call's ends with the call.
    """

    body: TaskBody
    model: str
    owner: str
    is_kept: bool = False
    id: str = field(default_factory=lambda: f"job_{secrets.token_hex(16)}")
    created: float = field(default_factory=time.time)
    finished: float | None = None
    state: State = "queued"
    position: int = 0
    progress: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    rounds: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None
    error: ApiError | None = None
    cancel_requested: threading.Event = field(default_factory=threading.Event)
    ended: Callable[[Job], object] | None = None
    _watchers: list[Watcher] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def is_low(self) -> bool:
        """Whether it gives way to all jobs of normal priority."""
        return self.body.priority == "low"

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

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
            if self.is_final:
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
        self.state, self.position = "running", 0
        self.publish({"type": "running"})

    def step(self, done: int, total: int, seconds_left: float) -> None:
        """Note a step of a drawing."""
        self.progress = {"step": done, "steps": total, "seconds_left": round(seconds_left, 2)}
        self.publish({"type": "step", **self.progress})

    def end(self, state: State, *, outcome: Outcome | None = None, error: ApiError | None = None) -> None:
        """End it, once. `ended`, which keeps it, is called before anybody is told."""
        with self._lock:
            if self.is_final:
                return
            self.outcome, self.error, self.finished = outcome, error, time.time()
            self.state, self.position = state, 0
            try:
                if self.ended is not None:
                    self.ended(self)
            except Exception as failure:  # a full disk, for example: what can't be kept was not done
                self.state, self.outcome, self.error = "failed", None, as_api_error(failure)
            self._tell(self._last())

    def _so_far(self) -> list[Event]:
        if self.is_final:
            return [self._last()]
        if self.state == "queued":
            return [{"type": "queued", "position": self.position}]
        step = [{"type": "step", **self.progress}] if self.progress else [{"type": "running"}]
        return [*step, *self.rounds, *([{"type": "text", "text": self.text}] if self.text else [])]

    def _last(self) -> Event:
        return {"type": self.state, **({"error": self.error.facts()} if self.error else {})}

    def _tell(self, event: Event) -> None:
        for watcher in self._watchers:
            watcher(event)
