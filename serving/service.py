"""The service behind the server: bundles with their queues, the jobs, and the way of a request from its body to its outcome.

Knows nothing of HTTP. Runs on the event loop; what takes long goes to threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..runtime.errors import OmniGen2Error
from ..runtime.pipeline import Pipeline
from .budget import ByteBudget
from .errors import LOG, ApiError, as_api_error
from .jobs import Ending, Job
from .metrics import EngineMetrics, Metrics
from .queue import Queue
from .requests.bodies import TaskBody, random_seed
from .requests.checks import check_task
from .requests.fetching import Fetcher
from .requests.inputs import picture_places, replace_pictures
from .requests.pictures import data_url, is_data_url
from .scheduler import Scheduler
from .settings import ServerSettings
from .store import Store
from .watching import until_last
from .work import Worker


@dataclass(frozen=True, kw_only=True)
class Served:
    """A bundle that is served.

    pipeline: what requests are checked against.
    scheduler: the queue, with what carries out its jobs.
    """

    name: str
    pipeline: Pipeline
    scheduler: Queue
    created: int


def take_turns(name: str, pipeline: Pipeline, settings: ServerSettings, metrics: Metrics) -> Queue:
    """A queue whose jobs take turns on the pipeline, in this process."""
    worker = Worker(name, pipeline, EngineMetrics(metrics, name))
    return Scheduler(worker, max_active=settings.max_active or default_active(pipeline), max_queue=settings.max_queue)


def default_active(pipeline: Pipeline) -> int:
    """The number of requests that take turns: one where a second would not find its weights or its memory."""
    is_on_cpu = pipeline.backend.name in ("ort-cpu", "openvino")
    return 2 if is_on_cpu and pipeline.components.memory_limit_bytes is None else 1


DECODERS = 2
"""Threads that decode pictures to see whether they can be: each takes up to 300 MB."""
Schedule = Callable[[str, Pipeline, ServerSettings, Metrics], Queue]
"""Makes the queue of a bundle, with what carries out its jobs."""


class Service:
    """Everything behind the endpoints. pipelines: by the names that clients use; the first is the default.

    schedule: where jobs are carried out; by default on the pipelines. Elsewhere these are only asked what a bundle can do.
    """

    def __init__(self, pipelines: Mapping[str, Pipeline], settings: ServerSettings, schedule: Schedule = take_turns) -> None:
        self.settings = settings
        self._schedule = schedule
        self.metrics = Metrics()
        self.store = Store(settings.state)
        self.held = ByteBudget(settings.max_held_bytes)
        self.is_draining = False
        self.is_at_work = False
        self._fetcher = Fetcher(settings.image_hosts, settings.max_body_bytes)
        self._decoding = ThreadPoolExecutor(DECODERS, "decoding")
        self._open: dict[str, Job] = {}
        self._unwritten: dict[str, Job] = {}
        self.bundles = {name: self._served(name, pipeline) for name, pipeline in pipelines.items()}
        self._resume()

    def bundle(self, name: str | None) -> Served:
        """A bundle by name; None is the first. Raises ApiError."""
        if name is None:
            return next(iter(self.bundles.values()))
        if name not in self.bundles:
            raise ApiError("model_not_found", f"there is no model {name[:80]!r}; there are: {', '.join(self.bundles)}", "model")
        return self.bundles[name]

    async def accept(self, body: TaskBody, owner: str, *, is_kept: bool = False, body_bytes: int = 0) -> Job:
        """Check a body and queue its job. Raises ApiError where it isn't allowed or there is no room.

        body_bytes: what is counted as held for the body, and is the job's from now on: given back when it ends.
        """
        self.check_running()
        served = self.bundle(body.model)
        self._check_open_jobs(owner, is_kept)
        fetched = await self._fetch_pictures(body)
        self.held.take(owner, fetched)
        try:
            body = await self._checked(body, served)
            self.check_running()
            self._check_open_jobs(owner, is_kept)
        except BaseException:
            self.held.give(owner, fetched)
            raise
        job = Job(body=body, model=served.name, owner=owner, is_kept=is_kept, body_bytes=body_bytes + fetched, keep=self._keep)
        self._open[job.id] = job
        try:
            if is_kept:
                await asyncio.to_thread(self.store.add, job)
            served.scheduler.submit(job)
        except BaseException:
            job.body_bytes = fetched  # the caller still counts the body
            self._close(job)
            if is_kept:
                await asyncio.shield(asyncio.to_thread(self.store.delete, job.id))
            raise
        return job

    def check_running(self) -> None:
        """Raises ApiError once the server is shutting down."""
        if self.is_draining:
            raise ApiError("shutting_down", "the server is shutting down: try again later", None, 10)

    def cancel(self, job: Job) -> None:
        """Cancel a job; one that has ended stays as it is."""
        self.bundles[job.model].scheduler.cancel(job)

    async def cancel_kept(self, job: Job) -> None:
        """Cancel a kept job, for good: it does not run after a restart either."""
        try:
            await asyncio.to_thread(self.store.cancel, job)
        except ApiError as error:  # its ending is written as soon as that is possible
            LOG.error("%s is cancelled, which is not written yet: %s", job.id, error)
        self.cancel(job)

    async def find(self, job_id: str, owner: str) -> Job:
        """A kept job of the owner's. Raises ApiError."""
        job = self._open.get(job_id) or self._unwritten.get(job_id)
        if job is None or job.owner != owner or not job.is_kept:
            job = await asyncio.to_thread(self.store.find, job_id, owner)
        if job is None:
            raise ApiError("job_not_found", f"there is no job {job_id[:80]!r}, or it has expired")
        return job

    async def forget(self, job: Job) -> None:
        """Remove a finished job. Raises ApiError where that can't be written."""
        await asyncio.to_thread(self.store.delete, job.id)
        self._unwritten.pop(job.id, None)

    async def outcome(self, job: Job) -> Job:
        """The job once it has ended. Raises its error."""
        await until_last(job)
        if job.error is not None:
            raise job.error
        if job.state == "cancelled":
            raise ApiError("shutting_down", "the request was cancelled") if self.is_draining else asyncio.CancelledError
        return job

    async def expire(self) -> None:
        """Forget what is too old, and write what could not be written, once a minute, for ever."""
        while True:
            with suppress(ApiError):  # a full disk, for example: the next minute may do
                await asyncio.to_thread(self.store.expire, self.settings.keep_s, self.settings.keep_bytes)
            await asyncio.to_thread(self._write_late)
            await asyncio.sleep(60)

    async def drain(self) -> None:
        """Take no request any more, and let those under way end within the settings' time.

        Kept jobs that did not end wait for the next start, if the server has a state; all others fail with `shutting_down`.
        """
        self.is_draining = True
        for served in self.bundles.values():
            for job in served.scheduler.hold():
                self._stop(job, "the server is shutting down: try again later")
        deadline = time.monotonic() + self.settings.drain_s
        while time.monotonic() < deadline and any(job.state == "running" for job in list(self._open.values())):
            await asyncio.sleep(0.02)
        for job in list(self._open.values()):
            self._stop(job, "the server has shut down: ask again")

    def close(self) -> None:
        """End the queues, and free the engines and the store. Where a step is under way, its engine is not freed."""
        for served in self.bundles.values():
            if served.scheduler.close():
                served.pipeline.close()
            else:
                self.is_at_work = True
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._fetcher.close()
        self._write_late()
        self.store.close()

    def _stop(self, job: Job, message: str) -> None:
        if job.is_kept and self.settings.state is not None:
            job.suspend()
        else:
            job.end("failed", error=ApiError("shutting_down", message, None, 10))

    def _served(self, name: str, pipeline: Pipeline) -> Served:
        scheduler = self._schedule(name, pipeline, self.settings, self.metrics)
        self.metrics.gauge("omnigen2_queued", "Requests that wait.", name, lambda: scheduler.queued)
        self.metrics.gauge("omnigen2_active", "Requests that take turns at the engine.", name, lambda: scheduler.active)
        return Served(name=name, pipeline=pipeline, scheduler=scheduler, created=int(time.time()))

    def _resume(self) -> None:
        """Queue what an earlier run of the server accepted and did not end."""
        for job in self.store.unfinished():
            job.keep = self._keep
            if job.model not in self.bundles:
                job.end("failed", error=ApiError("model_not_found", f"the model {job.model!r} is not served any more"))
                continue
            self._open[job.id] = job
            self.held.take(job.owner, job.body_bytes, is_accepted=True)
            self.bundles[job.model].scheduler.submit(job, is_accepted=True)

    def _check_open_jobs(self, owner: str, is_kept: bool) -> None:
        most = self.settings.max_open_jobs
        if is_kept and sum(job.is_kept and job.owner == owner for job in list(self._open.values())) >= most:
            raise ApiError("queue_full", f"{most} jobs of this key aren't finished: wait for one, or cancel one", None, 5)

    async def _checked(self, body: TaskBody, served: Served) -> TaskBody:
        """See `_prepared`. Pictures are decoded on threads of their own: requests without any don't wait for those."""
        threads = self._decoding if picture_places(body) else None
        return await asyncio.get_running_loop().run_in_executor(threads, self._prepared, body, served)

    def _prepared(self, body: TaskBody, served: Served) -> TaskBody:
        """The body as a job keeps it: with a seed, and checked. Raises ApiError."""
        changes: dict[str, Any] = {"model": served.name}
        if body.seed is None:
            changes["seed"] = random_seed()
        if body.max_pixels is None:
            changes["max_pixels"] = served.pipeline.bundle.manifest.vae.sample_px ** 2
        body = body.model_copy(update=changes)
        try:
            check_task(body, served.pipeline)
        except (OmniGen2Error, MemoryError) as error:
            raise as_api_error(error) from error
        return body

    async def _fetch_pictures(self, body: TaskBody) -> int:
        """Put a data URL in place of each picture's address on another host. Returns the bytes that they take."""
        outside = [place for place in picture_places(body) if not is_data_url(place[0])]
        urls = [data_url(data) for data in await self._fetcher.fetch(outside)]
        replace_pictures(body, dict(zip([url for url, _ in outside], urls, strict=True)))
        return sum(map(len, urls))

    def _keep(self, job: Job, ending: Ending) -> Ending:
        """Note a job's ending. Returns the one that stands: a kept job may have been cancelled."""
        if job.is_kept:
            try:
                ending = self.store.finish(job, ending)
            except ApiError as error:  # a full disk, for example. After a crash, the job's seed gives the same once more
                LOG.error("%s has ended (%s), which is not written yet: %s", job.id, ending.state, error)
                self._unwritten[job.id] = job
        self._close(job)
        self.metrics.jobs.labels(job.body.kind, ending.state).inc()
        if ending.state == "done":
            self.metrics.took.observe(ending.finished - job.created)
        return ending

    def _close(self, job: Job) -> None:
        if self._open.pop(job.id, None) is not None:
            self.held.give(job.owner, job.body_bytes)

    def _write_late(self) -> None:
        """Write the endings that could not be written when they came."""
        for job in list(self._unwritten.values()):
            with suppress(ApiError):
                if job.ending is not None:
                    self.store.finish(job, job.ending)
                    self._unwritten.pop(job.id, None)
