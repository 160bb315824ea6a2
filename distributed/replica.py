"""A replica: a bundle's pipeline in a process of its own, which carries out tasks and sends messages of them.

Jobs take turns in it as in the server's own process. Ray Serve makes replicas and calls them; nothing of Ray is known here.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import asdict, dataclass

from ..runtime.load_options import LoadOptions
from ..runtime.pipeline import Pipeline, load
from ..serving.jobs import FINAL, Event
from ..serving.scheduler import SWITCH_INTERVAL_S, Scheduler
from ..serving.work import Worker
from .identity import check_digest
from .tasks import Message, Task, message_of


@dataclass(frozen=True, kw_only=True)
class ReplicaPlan:
    """A bundle, and how a replica opens it on whichever node it starts.

    name: the bundle's, for clients.
    path: its folder, the same on every node.
    digest: its content's.
    has_gpu: whether the replica reserves one; without, it sees none.
    options: how it opens the bundle.
    max_active: tasks that take turns.
    max_tasks: tasks that the replica holds at most.
    """

    name: str
    path: str
    digest: str
    has_gpu: bool
    options: LoadOptions = LoadOptions()
    max_active: int = 1
    max_tasks: int = 2

    def open(self) -> Pipeline:
        """Open the bundle. Raises BundleError where it is another one here, and as `load` does."""
        check_digest(self.path, self.digest)
        if not self.has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a process that reserves none
        return load(self.path, **asdict(self.options))


class Replica:
    """Carries out tasks on a pipeline of its own. Raises what `ReplicaPlan.open` raises."""

    def __init__(self, plan: ReplicaPlan) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._timer = _StepTimer()
        worker = Worker(plan.name, plan.open(), self._timer)
        self._scheduler = Scheduler(worker, max_active=plan.max_active, max_queue=plan.max_tasks)

    async def carry_out(self, task: Task) -> AsyncIterator[Message]:
        """Yields the messages of a task, to its end. Closing the iterator cancels it: the engine stops after the current step."""
        job, loop = task.job(), asyncio.get_running_loop()
        messages: asyncio.Queue[Message] = asyncio.Queue()

        def send(event: Event) -> None:
            with suppress(RuntimeError):  # the loop is closed: the process ends
                loop.call_soon_threadsafe(messages.put_nowait, message_of(event, job, self._timer.step_s))

        job.watch(send)
        self._scheduler.submit(job, is_accepted=True)
        try:
            while True:
                message = await messages.get()
                if message["type"] != "queued":
                    yield message
                if message["type"] in FINAL:
                    return
        finally:
            self._scheduler.cancel(job)


class _StepTimer:
    """Keeps the seconds of the last step. Jobs take turns, so that it is the step which is reported next."""

    step_s = 0.0

    def on_first_turn(self, waited_s: float) -> None:
        """Nothing: the server counts it."""

    def on_step(self, seconds: float) -> None:
        """Keep the step's seconds."""
        self.step_s = seconds

    def on_piece(self) -> None:
        """Nothing: the server counts it."""
