"""Carries out jobs on replicas: sends a task, passes its messages on to the job, and sends it again where a replica is lost.

The seed makes a second try give what the first would have: the job's watchers see nothing twice. Knows nothing of Ray.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple, Protocol

from ..runtime.errors import Cancelled
from ..serving.errors import LOG, ApiError, from_facts
from ..serving.jobs import Job, Outcome
from ..serving.requests.bodies import ChatBody, DrawBody
from ..serving.work import Observer
from .tasks import Message, Task, outcome_of

MOST_LOSSES = 5
"""A task whose replicas are lost this often after it began may itself be what ends them."""
RETRY_S = 10
"""When a request may be tried again that found no replica."""
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Seconds before a task is sent again."""


class ReplicaLost(Exception):
    """The replica that a task was sent to is gone or can't be reached. Another one may take it."""


class Response(Protocol):
    """A task's messages as they come in."""

    def __iter__(self) -> Iterator[Message]:
        """Waits for each message. Raises ReplicaLost."""

    def cancel(self) -> None:
        """End the task. Called from any thread, also after its end."""


Send = Callable[[Task], Response]


class _UnderWay(NamedTuple):
    """A task that was sent."""

    job: Job
    response: Response
    relay: Relay


class RemoteWorker:
    """Carries out a bundle's jobs on the replicas behind `send`. Called from a thread for each job.

    outage_s: the seconds since a replica was last there; 0 while one is.
    patience_s: how long a job may have waited when there has been no replica for as long. Then it fails.
    resent: how many tasks were sent again because a replica was lost.
    """

    def __init__(
        self, send: Send, observer: Observer, *, outage_s: Callable[[], float] = lambda: 0.0, patience_s: float = inf
    ) -> None:
        self._send = send
        self._observer = observer
        self._outage_s, self._patience_s = outage_s, patience_s
        self._under_way: dict[str, _UnderWay] = {}
        self.resent = 0
        self._lock = threading.Lock()

    def __call__(self, job: Job) -> Outcome:
        """Carry out a job. Raises Cancelled, or the job's error."""
        relay, losses, pause_s = Relay(job, self._observer), 0, SHORTEST_PAUSE_S
        while True:
            try:
                return self._try(job, relay)
            except ReplicaLost:
                _check(job)
                losses += relay.has_begun
                with self._lock:
                    self.resent += 1
                if relay.has_begun:
                    LOG.warning("%s is sent to another replica: its own was lost", job.id)
            if losses == MOST_LOSSES:
                raise ApiError("engine_error", f"{losses} replicas were lost one after another while they worked on this")
            job.cancel_requested.wait(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def cancel(self, job: Job) -> None:
        """End the task of a job whose `cancel_requested` is set."""
        if (task := self._under_way.get(job.id)) is not None:
            task.response.cancel()

    def end_waits(self) -> None:
        """End the tasks that no replica began, where there has been none for too long. Called again and again."""
        for job, response, relay in list(self._under_way.values()):
            if not relay.has_begun and self._is_in_vain(job):
                response.cancel()

    def _is_in_vain(self, job: Job) -> bool:
        return min(time.time() - job.created, self._outage_s()) > self._patience_s

    def _check_replicas(self, job: Job) -> None:
        """Raises ApiError where the job has waited for a replica for too long."""
        if self._is_in_vain(job):
            message = f"no replica has run for {self._outage_s():.0f} s: try again later"
            raise ApiError("no_replica", message, None, RETRY_S)

    def _try(self, job: Job, relay: Relay) -> Outcome:
        _check(job)
        self._check_replicas(job)
        relay.restart()
        response = self._send(Task.of(job))
        self._under_way[job.id] = _UnderWay(job, response, relay)
        try:
            _check(job)  # it may have been cancelled before the response was known
            for message in response:
                if (outcome := relay.receive(message)) is not None:
                    return outcome
        except BaseException:
            response.cancel()
            _check(job)  # whatever a cancelled response raises
            if not relay.has_begun:
                self._check_replicas(job)
            raise
        finally:
            del self._under_way[job.id]
        raise ReplicaLost


class Relay:
    """Tells a job's watchers what the messages of its task say, each thing once however often the task is sent."""

    def __init__(self, job: Job, observer: Observer) -> None:
        self._job = job
        self._observer = observer
        self._previews: set[tuple[int, int]] = set()
        self._was_begun = False
        self.restart()

    def restart(self) -> None:
        """Expect the task's messages from the first one on."""
        self.has_begun = False
        self._text = ""

    def receive(self, message: Message) -> Outcome | None:
        """Take a message. Returns the outcome that the last one carries. Raises the task's error, or ReplicaLost."""
        match message["type"]:
            case "running":
                self._begin()
            case "step":
                self._observer.on_step(message["seconds"])
                self._job.step(message["step"], message["steps"], message["seconds_left"])
            case "text":
                self._observer.on_piece()
                self._add_text(message["text"])
            case "preview":
                self._show(message)
            case "round" if message["number"] > len(self._job.rounds):
                self._job.publish(message)
            case "done":
                return outcome_of(message)
            case "failed":
                raise from_facts(message["error"])
            case "cancelled":
                raise ReplicaLost
        return None

    def _begin(self) -> None:
        self.has_begun = True
        if not self._was_begun:
            self._was_begun = True
            self._observer.on_first_turn(time.time() - self._job.created)

    def _add_text(self, piece: str) -> None:
        """Publish what is new. Raises ApiError where the words differ from those that a watcher has."""
        self._text += piece
        known = self._job.text
        if not self._text.startswith(known[: len(self._text)]) and self._is_followed:
            raise ApiError("engine_error", "a replica was lost during the answer, and another one gives other words: ask again")
        if len(self._text) > len(known):
            self._job.publish({"type": "text", "text": self._text[len(known) :]})

    def _show(self, message: Message) -> None:
        """Publish a preview; in a stream of partial pictures only once."""
        place = message["index"], message["step"]
        if isinstance(self._job.body, DrawBody) and self._job.body.stream:
            if place in self._previews:
                return
            self._previews.add(place)
        self._job.publish(message)

    @property
    def _is_followed(self) -> bool:
        return self._job.is_kept or (isinstance(self._job.body, ChatBody) and self._job.body.stream)


def _check(job: Job) -> None:
    if job.cancel_requested.is_set():
        raise Cancelled("the job was cancelled")
