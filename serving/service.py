"""What the server has: bundles with their queues, the jobs, and the way of a request from its body to its outcome.

Knows nothing of HTTP. Runs on the event loop; what takes long goes to threads.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from ..runtime.drawing import picture_sizes
from ..runtime.errors import OmniGen2Error
from ..runtime.pipeline import Pipeline
from .bodies import ChatBody, DrawingBody, TaskBody, random_seed
from .conversations import dialogue, picture_parts
from .errors import ApiError, as_api_error
from .fetching import fetch_picture
from .jobs import FINAL, Event, Job
from .metrics import EngineMetrics, Metrics
from .pictures import data_url, is_data_url
from .queue import Queue
from .scheduler import Scheduler
from .settings import MAX_DELIVERED_PIXELS, MAX_SIDE_PX, ServerSettings
from .store import Store
from .work import Worker, body_images

_COALESCED = ("step", "preview", "queued")
"""Events of which a slow watcher gets the latest only."""


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
        self.is_draining = False
        self._open: dict[str, Job] = {}
        self.bundles = {name: self._served(name, pipeline) for name, pipeline in pipelines.items()}
        self._resume()

    def bundle(self, name: str | None) -> Served:
        """A bundle by name; None is the first. Raises ApiError."""
        if name is None:
            return next(iter(self.bundles.values()))
        if name not in self.bundles:
            raise ApiError("model_not_found", f"there is no model {name[:80]!r}; there are: {', '.join(self.bundles)}", "model")
        return self.bundles[name]

    async def accept(self, body: TaskBody, owner: str, *, is_kept: bool = False) -> Job:
        """Check a body and queue its job. Raises ApiError where it isn't allowed or there is no room."""
        self.check_running()
        served = self.bundle(body.model)
        if is_kept and self._open_jobs(owner) >= self.settings.max_open_jobs:
            most = self.settings.max_open_jobs
            raise ApiError("queue_full", f"{most} jobs of this key aren't finished: wait for one, or cancel one", None, 5)
        body = await asyncio.to_thread(self._prepared, body, served)
        job = Job(body=body, model=served.name, owner=owner, is_kept=is_kept)
        job.ended = self._ended
        self.check_running()
        if is_kept:
            await asyncio.to_thread(self.store.add, job)
        self._open[job.id] = job
        try:
            served.scheduler.submit(job)
        except ApiError:
            del self._open[job.id]
            if is_kept:
                await asyncio.to_thread(self.store.delete, job.id)
            raise
        return job

    def check_running(self) -> None:
        """Raises ApiError once the server is shutting down."""
        if self.is_draining:
            raise ApiError("shutting_down", "the server is shutting down: try again later", None, 10)

    def cancel(self, job: Job) -> None:
        """Cancel a job; one that has ended stays as it is."""
        self.bundles[job.model].scheduler.cancel(job)

    async def find(self, job_id: str, owner: str) -> Job:
        """A kept job of the owner's. Raises ApiError."""
        job = self._open.get(job_id)
        if job is None or job.owner != owner or not job.is_kept:
            job = await asyncio.to_thread(self.store.find, job_id, owner)
        if job is None:
            raise ApiError("job_not_found", f"there is no job {job_id[:80]!r}, or it has expired")
        return job

    async def forget(self, job: Job) -> None:
        """Remove a finished job."""
        await asyncio.to_thread(self.store.delete, job.id)

    async def outcome(self, job: Job) -> Job:
        """The job once it has ended. Raises its error."""
        await _until_final(job)
        if job.error is not None:
            raise job.error
        if job.state == "cancelled":
            raise ApiError("shutting_down", "the request was cancelled") if self.is_draining else asyncio.CancelledError
        return job

    async def expire(self) -> None:
        """Forget what is too old, once a minute, for ever."""
        while True:
            with suppress(OmniGen2Error, sqlite3.Error):  # a full disk, for example: the next minute may do
                await asyncio.to_thread(self.store.expire, self.settings.keep_s, self.settings.keep_bytes)
            await asyncio.sleep(60)

    async def drain(self) -> None:
        """Take no request any more, and let those under way end within the settings' time.

        Kept jobs that did not end wait for the next start, if the server has a state; all others fail with `shutting_down`.
        """
        self.is_draining = True
        waiting = [job for served in self.bundles.values() for job in served.scheduler.hold()]
        for job in waiting:
            if not (job.is_kept and self.settings.state):
                job.end("failed", error=ApiError("shutting_down", "the server is shutting down: try again later", None, 10))
        deadline = time.monotonic() + self.settings.drain_s
        while time.monotonic() < deadline and any(job.state == "running" for job in list(self._open.values())):
            await asyncio.sleep(0.02)
        for job in list(self._open.values()):
            if job.is_kept and self.settings.state is not None:
                job.ended = None  # it stays in the store as it was accepted
            job.end("failed", error=ApiError("shutting_down", "the server has shut down: ask again", None, 10))

    def close(self) -> None:
        """End the queues, and free the engines and the store."""
        for served in self.bundles.values():
            served.scheduler.close()
            served.pipeline.close()
        self.store.close()

    def _served(self, name: str, pipeline: Pipeline) -> Served:
        scheduler = self._schedule(name, pipeline, self.settings, self.metrics)
        self.metrics.gauge("omnigen2_queued", "Requests that wait.", name, lambda: scheduler.queued)
        self.metrics.gauge("omnigen2_active", "Requests that take turns at the engine.", name, lambda: scheduler.active)
        return Served(name=name, pipeline=pipeline, scheduler=scheduler, created=int(time.time()))

    def _resume(self) -> None:
        """Queue what an earlier run of the server accepted and did not end."""
        for job in self.store.unfinished():
            job.ended = self._ended
            if job.model not in self.bundles:
                job.end("failed", error=ApiError("model_not_found", f"the model {job.model!r} is not served any more"))
                continue
            self._open[job.id] = job
            self.bundles[job.model].scheduler.submit(job, is_accepted=True)

    def _open_jobs(self, owner: str) -> int:
        return sum(job.is_kept and job.owner == owner for job in list(self._open.values()))

    def _prepared(self, body: TaskBody, served: Served) -> TaskBody:
        """The body as a job keeps it: with a seed and with its pictures, checked. Raises ApiError."""
        changes: dict[str, Any] = {"model": served.name}
        if body.seed is None:
            changes["seed"] = random_seed()
        if body.max_pixels is None:
            changes["max_pixels"] = served.pipeline.bundle.manifest.vae.sample_px ** 2
        body = self._with_pictures(body).model_copy(update=changes)
        try:
            if isinstance(body, ChatBody):
                _check_chat(body, served.pipeline)
            else:
                check_size(body, served.pipeline, getattr(body, "n", 1))
                images = body_images(body)
                manifest = served.pipeline.bundle.manifest
                request = body.request(body.prompt, images)
                picture_sizes(manifest, request, images)
                if request.cache is not None:
                    request.cache.check(served.pipeline.components.most_blended)
        except OmniGen2Error as error:
            raise as_api_error(error) from error
        return body

    def _with_pictures(self, body: TaskBody) -> TaskBody:
        """The body with a data URL in place of each picture's address on another host."""
        if isinstance(body, ChatBody):
            for number, message in enumerate(body.messages):
                for part, param in picture_parts(message, f"messages[{number}]"):
                    part.image_url.url = self._data_url(part.image_url.url, param)
            return body
        return body.model_copy(update={"images": [self._data_url(url, f"images[{i}]") for i, url in enumerate(body.images)]})

    def _data_url(self, url: str, param: str) -> str:
        return url if is_data_url(url) else data_url(fetch_picture(url, self.settings.image_hosts, param))

    def _ended(self, job: Job) -> None:
        if job.is_kept:
            self.store.finish(job)
        self._open.pop(job.id, None)
        self.metrics.jobs.labels(job.body.kind, job.state).inc()
        if job.state == "done" and job.finished is not None:
            self.metrics.took.observe(job.finished - job.created)


def default_active(pipeline: Pipeline) -> int:
    """How many requests take turns: one where a second would not find its weights or its memory."""
    is_on_cpu = pipeline.backend.name in ("ort-cpu", "openvino")
    return 2 if is_on_cpu and pipeline.components.memory_limit_bytes is None else 1


def check_size(body: DrawingBody, pipeline: Pipeline, count: int) -> None:
    """Raises ApiError for pictures larger than the server delivers. A bundle that draws larger ones raises the bounds."""
    own = pipeline.bundle.manifest.vae.sample_px
    side, area = max(MAX_SIDE_PX, own), max(MAX_DELIVERED_PIXELS, own * own)
    width, height = body.size_px
    if width is None or height is None:
        width = height = own
    if max(width, height) > side:
        raise ApiError("invalid_value", f"size={body.size} is larger than {side} pixels a side", "size")
    if width * height * count > area:
        raise ApiError("invalid_value", f"size={width}x{height} for {count} pictures is more than {area} pixels together", "size")


def _check_chat(body: ChatBody, pipeline: Pipeline) -> None:
    chat = pipeline.language_model.chat  # raises where the bundle can only draw
    check_size(body, pipeline, 1)
    body.settings().sampler(chat)
    asked = dialogue(body)
    body.request(asked.prompt)
    if any(turn.images or turn.answer_images for turn in asked.turns) or asked.images:
        _ = pipeline.language_model.vision


async def _until_final(job: Job) -> None:
    """Wait for the job's end. The events before it don't wake the loop: each would keep the engine from its next step."""
    loop, final = asyncio.get_running_loop(), asyncio.Event()

    def from_any_thread(event: Event) -> None:
        if event["type"] in FINAL:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(final.set)

    job.watch(from_any_thread)
    try:
        await final.wait()
    finally:
        job.unwatch(from_any_thread)


@asynccontextmanager
async def watching(job: Job) -> AsyncIterator[AsyncIterator[Event]]:
    """The job's events from now on, up to its end. Of steps and previews a slow reader gets the latest."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    unread: list[Event] = []

    def put(event: Event) -> None:
        if event["type"] in _COALESCED:
            unread[:] = [other for other in unread if other["type"] != event["type"]]
        unread.append(event)
        ready.set()

    def from_any_thread(event: Event) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            loop.call_soon_threadsafe(put, event)

    async def events() -> AsyncIterator[Event]:
        while True:
            await ready.wait()
            ready.clear()
            while unread:
                event = unread.pop(0)
                yield event
                if event["type"] in FINAL:
                    return

    job.watch(from_any_thread)
    try:
        yield events()
    finally:
        job.unwatch(from_any_thread)
