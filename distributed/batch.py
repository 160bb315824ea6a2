"""Draws a batch on a Ray cluster: a pool of workers, each with a pipeline and at most one row under way.

A row whose worker dies is drawn by another one. Workers write no pictures: they send them here.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import inf
from types import TracebackType
from typing import Any

from ..batch.driver import Drawer, Drawings
from ..batch.pictures import Drawn
from ..batch.rows import Job
from ..runtime.errors import OmniGen2Error, RequestError
from .batch_worker import Worker, WorkerPlan, packed
from .cluster import import_ray, last_line
from .settings import check_amount

MAX_WORKERS = 10_000
MOST_DEATHS = 3
"""A row fails when this many workers have died while they drew it."""
MOST_FAILED_STARTS = 3
"""No more workers are started when this many in a row have failed to start."""
WAIT_S = 1.0
PATIENCE_S = 30.0
"""A note tells when there was no worker for this long."""
ON_CPU = ("ort-cpu", "openvino")


@dataclass(frozen=True, kw_only=True)
class PoolSettings:
    """The number of workers, and the reservation of each. Raises RequestError for a value that isn't allowed.

    workers: None: as many as there is room for.
    cpus, gpus: a fraction below 1, or a whole number. gpus=None: 1, or 0 where the cluster has none or the backend takes none;
        cpus=None: 1 with a GPU, otherwise all processors of the smallest node.
    """

    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise RequestError(f"--workers={self.workers} is out of range; 1 to {MAX_WORKERS} are allowed")
        for name, amount in (("--cpus-per-worker", self.cpus), ("--gpus-per-worker", self.gpus)):
            if amount is not None:
                check_amount(name, amount)


@dataclass(frozen=True, kw_only=True)
class Room:
    """A pool's share of a cluster: the most workers, and the reservation of each."""

    workers: int
    cpus: float
    gpus: float

    @property
    def amounts(self) -> str:
        """A worker's reservation, for messages."""
        return f"{self.cpus:g} CPU" + (f" and {self.gpus:g} GPU" if self.gpus else "")


@dataclass
class _Task:
    """A row, and the number of workers that died while they drew it."""

    job: Job
    deaths: int = 0


def draw_on_cluster(plan: WorkerPlan, settings: PoolSettings, on_note: Callable[[str], object]) -> Drawer:
    """A drawer on the cluster that this process is connected to. on_note: called with notes for the user.

    Raises OmniGen2Error, while it draws, where no worker can be started.
    """

    def drawings(jobs: Iterator[Job]) -> Drawings:
        first = next(jobs, None)
        if first is None:
            return
        waiting = deque([_Task(first)])
        with _Pool(plan, room_for(settings, plan.options.backend), on_note) as pool:
            while True:
                while len(waiting) < pool.places and (job := next(jobs, None)) is not None:
                    waiting.append(_Task(job))
                pool.grow(len(waiting))
                while waiting and pool.has_idle:
                    if (problem := pool.begin(waiting[0])) is not None:
                        yield waiting[0].job, problem
                    waiting.popleft()
                if not waiting and not pool.is_drawing:
                    return
                for task, drawn in pool.ended():
                    if drawn is None:
                        waiting.appendleft(task)
                    else:
                        yield task.job, drawn

    return drawings


def room_for(settings: PoolSettings, backend: str) -> Room:
    """The pool's share of the cluster's nodes as they are now. Raises OmniGen2Error where no worker fits."""
    nodes = [node["Resources"] for node in import_ray().nodes() if node["Alive"]]
    return room_on(nodes, settings, backend)


def room_on(nodes: list[dict[str, float]], settings: PoolSettings, backend: str) -> Room:
    """The pool's share of nodes with these resources, by Ray's names. Raises OmniGen2Error where no worker fits."""
    has_gpus = backend not in ON_CPU and any(node.get("GPU", 0) for node in nodes)
    gpus = settings.gpus if settings.gpus is not None else float(has_gpus)
    smallest = min((node["CPU"] for node in nodes if node.get("CPU", 0) >= 1), default=1.0)
    cpus = settings.cpus if settings.cpus is not None else 1.0 if gpus else float(int(smallest))
    fits = sum(int(_fits(node, cpus, gpus)) for node in nodes)
    room = Room(workers=settings.workers or min(fits, MAX_WORKERS), cpus=cpus, gpus=gpus)
    if not room.workers:
        advice = "if nodes will come, give --workers"
        raise OmniGen2Error(f"no node of the cluster has {room.amounts}, which a worker reserves; {advice}")
    return room


def _fits(node: dict[str, float], cpus: float, gpus: float) -> float:
    parts = [node.get(name, 0) / amount for name, amount in (("CPU", cpus), ("GPU", gpus)) if amount]
    return min(parts, default=1.0)


class _Pool:
    """The workers: starting, idle, or drawing. They end with the block."""

    def __init__(self, plan: WorkerPlan, room: Room, on_note: Callable[[str], object]) -> None:
        self._ray = import_ray()
        threads = plan.options.threads or (None if room.gpus else max(1, int(room.cpus)))
        self._plan = replace(plan, options=replace(plan.options, threads=threads))
        self._room = room
        self._on_note = on_note
        self._starting: dict[Any, Any] = {}  # worker by the reference of its start
        self._idle: list[Any] = []
        self._drawing: dict[Any, tuple[Any, _Task]] = {}  # worker and row by the reference of the drawing
        self._failed_starts = 0
        self._problem = ""
        self._none_since: float | None = None

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in (*self._starting.values(), *self._idle, *(worker for worker, _ in self._drawing.values())):
            self._ray.kill(worker)

    @property
    def places(self) -> int:
        """Rows that may wait for a worker."""
        return self._room.workers - len(self._drawing)

    @property
    def has_idle(self) -> bool:
        return bool(self._idle)

    @property
    def is_drawing(self) -> bool:
        return bool(self._drawing)

    def grow(self, rows: int) -> None:
        """Start workers until there is one for each row that waits, or as many as there may be."""
        workers = len(self._starting) + len(self._idle) + len(self._drawing)
        missing = rows - len(self._starting) - len(self._idle)
        for _ in range(min(missing, self._room.workers - workers)):
            if self._failed_starts < MOST_FAILED_STARTS:
                self._start()

    def _start(self) -> None:
        room = self._room
        kind = self._ray.remote(Worker).options(num_cpus=room.cpus, num_gpus=room.gpus, scheduling_strategy="SPREAD")
        worker = kind.remote(self._plan)
        self._starting[worker.open.remote()] = worker

    def begin(self, task: _Task) -> Drawn | None:
        """Give a row to an idle worker. Returns the outcome of a row whose images can't be read, otherwise None."""
        try:
            job, images = packed(task.job)
        except OSError as error:
            return Drawn(seconds=0.0, error=f"image file {str(error.filename)!r} cannot be read: {error.strerror or error}")
        worker = self._idle.pop()
        self._drawing[worker.draw.remote(job, images)] = worker, task
        return None

    def ended(self) -> Iterator[tuple[_Task, Drawn | None]]:
        """Wait a second at most for a start or a drawing to end. Yields rows with their outcomes, None where the worker died.

        Raises OmniGen2Error where there is no worker and none can be started.
        """
        under_way = [*self._starting, *self._drawing]
        if not under_way:
            raise OmniGen2Error(f"no worker could be started: {self._problem}")
        for reference in self._ray.wait(under_way, num_returns=1, timeout=WAIT_S)[0]:
            if reference in self._starting:
                self._end_start(self._starting.pop(reference), reference)
            else:
                yield self._end_drawing(*self._drawing.pop(reference), reference)
        self._note_where_none_is_there()

    def _end_start(self, worker: Any, reference: Any) -> None:
        try:
            problem = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            problem = last_line(str(error))
        if problem is None:
            self._idle.append(worker)
            self._failed_starts = 0
            return
        self._ray.kill(worker)
        self._failed_starts += 1
        self._problem = problem

    def _end_drawing(self, worker: Any, task: _Task, reference: Any) -> tuple[_Task, Drawn | None]:
        try:
            drawn: Drawn = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._ray.kill(worker)
            task.deaths += 1
            if task.deaths < MOST_DEATHS:
                return task, None
            return task, Drawn(seconds=0.0, error=f"{task.deaths} workers died while they drew it: {last_line(str(error))}")
        self._idle.append(worker)
        return task, drawn

    def _note_where_none_is_there(self) -> None:
        if self._idle or self._drawing:
            self._none_since = None
        elif self._none_since is None:
            self._none_since = time.monotonic()
        elif time.monotonic() - self._none_since > PATIENCE_S:
            self._none_since = inf
            self._on_note(f"no worker has started yet; each reserves {self._room.amounts}, which may not be free")
