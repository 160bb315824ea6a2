"""The server's queue in front of replicas: sends several jobs out at a time, each on a thread that waits for its outcome.

Knows nothing of Ray: `RemoteWorker` does the sending.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from ..runtime.errors import Cancelled
from ..serving.errors import as_api_error
from ..serving.jobs import Job
from ..serving.queue import Queue
from .remote import RemoteWorker

POLL_S = 1.0
"""Seconds after which it is seen that there are no replicas any more."""


class Dispatcher(Queue):
    """A queue whose jobs are carried out elsewhere. `close` ends it.

    describe: gives the part of `/v1/capabilities` about the replicas.
    """

    def __init__(
        self, worker: RemoteWorker, *, max_active: int, max_queue: int, describe: Callable[[], dict[str, Any]] = dict
    ) -> None:
        super().__init__(max_active=max_active, max_queue=max_queue)
        self._worker = worker
        self._describe = describe
        self._is_closed = False
        self._thread = threading.Thread(target=self._loop, name="dispatcher", daemon=True)
        self._thread.start()

    def cancel(self, job: Job) -> None:
        """Cancel a job: at once while it waits, after the step under way while a replica works on it."""
        super().cancel(job)
        self._worker.cancel(job)

    def close(self) -> bool:
        """Send nothing out any more, and cancel what is under way. See Queue.close."""
        with self._changed:
            self._is_closed = True
            under_way = list(self._under_way)
            self._changed.notify_all()
        for job in under_way:
            self.cancel(job)
        self._thread.join()
        return True

    def facts(self) -> dict[str, Any]:
        """See Queue.facts."""
        return self._describe()

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._is_closed:
                    return
                for job in self._admit():
                    threading.Thread(target=self._carry_out, args=[job], name=f"job {job.id[-6:]}", daemon=True).start()
                self._changed.wait(POLL_S)
            self._worker.end_waits()

    def _carry_out(self, job: Job) -> None:
        try:
            job.end("done", outcome=self._worker(job))
        except Cancelled:
            job.end("cancelled")
        except BaseException as error:  # a thread's end: whatever it was is the job's error
            job.end("failed", error=as_api_error(error))
        finally:
            with self._changed:
                self._leave(job)
                self._changed.notify_all()
