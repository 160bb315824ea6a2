"""Checks of a cluster's nodes before replicas start on them: they have the server's bundles, and an engine that runs them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..runtime.errors import OmniGen2Error
from .cluster import import_ray, last_line
from .identity import Report, check_reports, report
from .replica import ReplicaPlan
from .settings import ReplicaSettings

NODE_TIMEOUT_S = 60.0
"""Seconds that a node may take to report its bundles."""
SETTLING_S = 2.0
"""Seconds until Ray counts what ended as free."""


class Engine(NamedTuple):
    """The engine of all replicas of a bundle, named as a backend names itself."""

    name: str
    precision: str
    graph_precision: str


def check_nodes(paths: Sequence[str], settings: ReplicaSettings) -> None:
    """Compare the bundles of each node that a replica fits on with this machine's.

    Raises OmniGen2Error, naming the first node that differs, or where a replica fits nowhere.
    """
    own = report(paths)
    if own.problem is not None:
        raise OmniGen2Error(own.problem)
    nodes = [node for node in _alive_nodes() if _fits(node, settings)]
    if not nodes:
        raise OmniGen2Error(f"no node of the cluster has {_amounts(settings)}, which a replica reserves")
    ray = import_ray()
    pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    task = ray.remote(report)
    pending = {
        _node_name(node): (
            node["NodeID"],
            task.options(num_cpus=0, max_retries=0, scheduling_strategy=pinned(node["NodeID"], soft=False)).remote(paths),
        )
        for node in nodes
    }
    check_reports(own, dict(_collected(pending)))


def _collected(pending: dict[str, tuple[str, Any]]) -> Iterator[tuple[str, Report]]:
    """The reports as they come in. A node that has died meanwhile is left out: Ray calls it alive for a while."""
    ray = import_ray()
    ray.wait([reference for _, reference in pending.values()], num_returns=len(pending), timeout=NODE_TIMEOUT_S)
    for name, (node_id, reference) in pending.items():
        try:
            yield name, ray.get(reference, timeout=0)
        except ray.exceptions.RayError as error:
            if node_id not in {node["NodeID"] for node in _alive_nodes()}:
                continue
            if isinstance(error, ray.exceptions.GetTimeoutError):
                raise OmniGen2Error(f"node {name} does not answer: remove it from the cluster") from error
            raise OmniGen2Error(f"node {name} can't run omnigen2-rt: {last_line(str(error))}") from error


def check_room(count: int, settings: ReplicaSettings, note: Callable[[str], object], *, can_grow: bool) -> None:
    """Say at once where the cluster has no room for so many replicas, which are then waited for.

    can_grow: whether nodes may still come. Raises OmniGen2Error where there is no room and none can come.
    """
    asked = f"{count} replicas that reserve {_amounts(settings)} each are to start"
    if _fit(_totals(), settings) < count and not can_grow:
        raise OmniGen2Error(f"{asked}; {has_text(settings)}: ask for fewer, or reserve less")
    end = time.monotonic() + SETTLING_S
    while _fit(_totals(), settings) < count or _fit([_free()], settings) < count:
        if time.monotonic() > end:
            note(f"{asked}; {has_text(settings)}: waiting up to {settings.start_s:g} s for more")
            return
        time.sleep(0.1)


def has_text(settings: ReplicaSettings) -> str:
    """The part of a message about what the cluster has of the resources that a replica reserves."""
    totals, free = _totals(), _free()
    names = [("CPU", "processors")] + [("GPU", "GPUs")] * bool(settings.gpus)
    amounts = [f"{sum(node.get(key, 0) for node in totals):g} {noun}, {free.get(key, 0):g} of them free" for key, noun in names]
    return f"the cluster has {' and '.join(amounts)}, on {len(totals)} node{'s' * (len(totals) != 1)}"


def _totals() -> list[dict[str, float]]:
    return [node["Resources"] for node in _alive_nodes()]


def _free() -> dict[str, float]:
    free: dict[str, float] = import_ray().available_resources()
    return free


def _fit(nodes: Sequence[dict[str, float]], settings: ReplicaSettings) -> float:
    """The number of replicas that fit on nodes with these resources."""
    wanted = [(name, amount) for name, amount in (("CPU", settings.cpus), ("GPU", settings.gpus)) if amount]
    return sum(min((node.get(name, 0) // amount for name, amount in wanted), default=math.inf) for node in nodes)


def choose_engine(plan: ReplicaPlan, settings: ReplicaSettings) -> Engine:
    """The backend and precision that a replica takes, tried where and with what a replica would run.

    Raises OmniGen2Error where it can't open the bundle, or nothing is free for it.
    """
    ray = import_ray()
    task = ray.remote(_engine).options(num_cpus=settings.cpus, num_gpus=settings.gpus, max_retries=3)
    reference = task.remote(plan)
    try:
        engine: Engine = ray.get(reference, timeout=settings.start_s)
    except ray.exceptions.GetTimeoutError as error:
        ray.cancel(reference)
        wanted = f"no node had {_amounts(settings)} free for {plan.name!r} within {settings.start_s:g} s"
        raise OmniGen2Error(f"{wanted}; {has_text(settings)}: add nodes, or reserve less") from error
    except ray.exceptions.RayTaskError as error:
        raise OmniGen2Error(f"a replica can't open {plan.name!r}: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise OmniGen2Error(f"a replica can't open {plan.name!r}: {last_line(str(error))}") from error
    return engine


def _engine(plan: ReplicaPlan) -> Engine:
    with plan.open() as pipeline:
        backend = pipeline.backend
        return Engine(backend.name, backend.precision, backend.graph_precision)


def with_engine(plan: ReplicaPlan, engine: Engine) -> ReplicaPlan:
    """The plan with the backend and precision by name, so that no replica chooses another."""
    return replace(plan, options=replace(plan.options, backend=engine.name, precision=engine.precision))


def _alive_nodes() -> list[dict[str, Any]]:
    return [node for node in import_ray().nodes() if node["Alive"]]


def _fits(node: dict[str, Any], settings: ReplicaSettings) -> bool:
    has = node["Resources"]
    return bool(has.get("CPU", 0) >= settings.cpus and has.get("GPU", 0) >= settings.gpus)


def _node_name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"


def _amounts(settings: ReplicaSettings) -> str:
    return f"{settings.cpus:g} processors" + (f" and {settings.gpus:g} GPUs" if settings.gpus else "")
