"""Replicas without Ray: scripted ones, and one in this process whose tasks can be lost."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from omnigen2_rt.distributed.remote import ReplicaLost
from omnigen2_rt.distributed.replica import Replica
from omnigen2_rt.distributed.tasks import Message, Task

RUNNING: Message = {"type": "running"}
DONE: Message = {"type": "done", "facts": {"seeds": [1]}, "pictures": (b"picture",)}
LOST = ReplicaLost()


class Script:
    """Answers each task with the next of several lists of messages; an exception among them is raised."""

    def __init__(self, *answers: Iterable[Message | BaseException]) -> None:
        self._answers = iter(answers)
        self.tasks: list[Task] = []

    def __call__(self, task: Task) -> ScriptedResponse:
        self.tasks.append(task)
        return ScriptedResponse(next(self._answers))


class ScriptedResponse:
    """One of a script's answers."""

    def __init__(self, messages: Iterable[Message | BaseException]) -> None:
        self._messages = messages

    def __iter__(self) -> Iterator[Message]:
        for message in self._messages:
            if isinstance(message, BaseException):
                raise message
            yield message

    def cancel(self) -> None:
        """Nothing is under way."""


class Gate:
    """Responses that end when the gate opens, or when they are cancelled."""

    def __init__(self) -> None:
        self.waiting = 0
        self.cancelled = 0
        self._is_open = threading.Event()
        self._lock = threading.Lock()

    def open(self) -> None:
        self._is_open.set()

    def __call__(self, task: Task) -> GatedResponse:
        return GatedResponse(self)

    def count(self, waiting: int, cancelled: int = 0) -> None:
        with self._lock:
            self.waiting += waiting
            self.cancelled += cancelled


class GatedResponse:
    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._is_cancelled = threading.Event()

    def __iter__(self) -> Iterator[Message]:
        yield RUNNING
        self._gate.count(1)
        try:
            while not self._gate._is_open.wait(0.002):
                if self._is_cancelled.is_set():
                    self._gate.count(0, 1)
                    raise ReplicaLost
        finally:
            self._gate.count(-1)
        yield DONE

    def cancel(self) -> None:
        self._is_cancelled.set()


class InProcess:
    """Sends tasks to a replica on an event loop of this process, as Ray Serve does to one of another."""

    def __init__(self, replica: Replica, loop: asyncio.AbstractEventLoop) -> None:
        self._replica = replica
        self._loop = loop
        self.open: list[InProcessResponse] = []
        self.sent = 0

    def __call__(self, task: Task) -> InProcessResponse:
        self.sent += 1
        response = InProcessResponse()
        response.future = asyncio.run_coroutine_threadsafe(self._carry_out(task, response), self._loop)
        self.open.append(response)
        return response

    def lose(self, when: Callable[[InProcessResponse], bool] = lambda response: True) -> int:
        """Lose the tasks under way, as if the replica's node had died. Returns how many."""
        lost = [response for response in self.open if when(response)]
        for response in lost:
            response.cancel()
        return len(lost)

    async def _carry_out(self, task: Task, response: InProcessResponse) -> None:
        try:
            async for message in self._replica.carry_out(task):
                response.messages.put(message)
            response.messages.put(None)
        except BaseException as error:
            response.messages.put(ReplicaLost() if isinstance(error, asyncio.CancelledError) else error)
        finally:
            self.open.remove(response)


class InProcessResponse:
    def __init__(self) -> None:
        self.messages: queue.Queue[Message | BaseException | None] = queue.Queue()
        self.seen: list[str] = []
        self.future: Any = None

    def __iter__(self) -> Iterator[Message]:
        while (message := self.messages.get()) is not None:
            if isinstance(message, BaseException):
                raise message
            self.seen.append(message["type"])
            yield message

    def cancel(self) -> None:
        self.future.cancel()


@contextmanager
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop on a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
