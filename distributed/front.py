"""The server's service in front of replicas: bundles are checked on every node, replicas started, and jobs sent to them.

Requests are checked, queued and kept in this process as without Ray; only the engines are elsewhere.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import FrameType
from typing import NoReturn
from urllib.parse import quote

import numpy as np

from ..batch.digests import bundle_digest
from ..runtime.backends import DeviceArray, Session
from ..runtime.bundle import Bundle
from ..runtime.errors import BackendError
from ..runtime.load_options import LoadOptions
from ..runtime.pipeline import Pipeline, bundle_path
from ..serving.metrics import EngineMetrics, Metrics
from ..serving.queue import Queue
from ..serving.service import Schedule, Service, default_active
from ..serving.settings import ServerSettings
from .cluster import connected
from .deployment import Deployment, deployed, open_serve
from .dispatcher import Dispatcher
from .messages import Note
from .nodes import Engine, check_nodes, check_room, choose_engine, with_engine
from .remote import RemoteWorker
from .replica import ReplicaPlan
from .settings import ReplicaSettings

LEAST_TASKS = 2
"""Tasks that a replica holds: one more than its engine works on, so that it never waits for the next one to be sent."""


@contextmanager
def replicated_service(
    bundles: Mapping[str, str],
    settings: ServerSettings,
    replicas: ReplicaSettings,
    *,
    address: str,
    name: str,
    options: LoadOptions,
    note: Note = lambda text: None,
) -> Iterator[Service]:
    """A service whose jobs replicas carry out, for the block. At its end the replicas are removed, and a local cluster with them.

    bundles: paths by the names that clients use. address: see `connected`. name: tells this server from others of the cluster.
    options: how replicas open the bundles. note: called with lines for the user.
    Raises OmniGen2Error where nodes differ or replicas don't start.
    """
    paths = {bundle: path if path == "nano" else os.path.abspath(path) for bundle, path in bundles.items()}
    plans = {bundle: _plan(bundle, path, replicas, options) for bundle, path in paths.items()}
    apps = {bundle: f"{name}-{quote(bundle, safe='')}" for bundle in bundles}
    pipelines: dict[str, Pipeline] = {}
    deployments: dict[str, Deployment] = {}
    with connected(address, note), ExitStack() as started:
        check_nodes(list(dict.fromkeys(paths.values())), replicas)
        open_serve(apps.values())
        check_room(len(plans) * replicas.least, replicas, note, can_grow=address != "local")
        for bundle, plan in plans.items():
            chosen = choose_engine(plan, replicas)
            pipelines[bundle] = pipeline = stand_in(plan, chosen)
            active = settings.max_active or default_active(pipeline)
            plan = replace(with_engine(plan, chosen), max_active=active, max_tasks=max(LEAST_TASKS, active))
            deployments[bundle] = started.enter_context(deployed(apps[bundle], plan, replicas))
        with restarting_on_hangup(deployments.values()):
            yield Service(pipelines, settings, dispatching_to(deployments, replicas.start_s))


def dispatching_to(deployments: Mapping[str, Deployment], patience_s: float) -> Schedule:
    """Returns the schedule that sends a bundle's jobs to its replicas. patience_s: see `RemoteWorker`."""

    def dispatch(bundle: str, pipeline: Pipeline, settings: ServerSettings, metrics: Metrics) -> Queue:
        deployment = deployments[bundle]
        observer = EngineMetrics(metrics, bundle)
        worker = RemoteWorker(deployment.send, observer, outage_s=lambda: deployment.outage_s, patience_s=patience_s)
        metrics.gauge("omnigen2_replicas", "Replicas that take requests.", bundle, lambda: deployment.running)
        metrics.gauge("omnigen2_resent", "Tasks that were sent again because a replica was lost.", bundle, lambda: worker.resent)
        most, queued = deployment.most_tasks, settings.max_queue
        return Dispatcher(worker, max_active=most, max_queue=queued, describe=deployment.facts)

    return dispatch


@contextmanager
def restarting_on_hangup(deployments: Iterable[Deployment]) -> Iterator[None]:
    """Lets SIGHUP replace all replicas one by one during the block, where the system has it and this is the main thread."""
    if not hasattr(signal, "SIGHUP") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def restart() -> None:
        for deployment in deployments:
            deployment.restart()

    def on_hangup(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=restart, name="restart", daemon=True).start()

    before = signal.signal(signal.SIGHUP, on_hangup)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def stand_in(plan: ReplicaPlan, engine: Engine) -> Pipeline:
    """A pipeline that requests are checked against, and that runs nothing: the engines are on the replicas."""
    return Pipeline(Bundle.open(bundle_path(plan.path)), RemoteBackend(engine), plan.options.memory_limit_bytes)


class RemoteBackend:
    """The replicas' backend by name. See `runtime.backends.Backend`; every verb raises BackendError."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.precision, self.graph_precision = engine

    def open(self, component: str) -> Session:
        """See Backend.open."""
        self._refuse()

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        self._refuse()

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise BackendError("this process has no engine: the replicas have it")


def _plan(bundle: str, path: str, replicas: ReplicaSettings, options: LoadOptions) -> ReplicaPlan:
    own = replace(options, threads=options.threads or replicas.threads)
    return ReplicaPlan(name=bundle, path=path, digest=bundle_digest(path), has_gpu=replicas.gpus > 0, options=own)
