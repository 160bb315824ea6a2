"""Ray clusters of this machine, each in a folder of its own, and the processes of their replicas."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.serving.running import wait_until

STORE_BYTES = 100_000_000


def short_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for Ray's files. Among them are sockets, whose whole path may have a hundred characters."""
    return tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True)


@contextmanager
def cluster_of(*nodes: dict[str, Any]) -> Iterator[Any]:
    """A cluster to which this process is connected. nodes: what each of its nodes has; the first is the head."""
    from omnigen2_rt.distributed.cluster import import_ray
    from omnigen2_rt.distributed.messages import mute_serve

    ray = import_ray()  # with its settings, which count when it is first imported
    from ray.cluster_utils import Cluster

    with short_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        health = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
        head, *others = [{"object_store_memory": STORE_BYTES, **node} for node in nodes]
        cluster = Cluster(
            initialize_head=True,
            head_node_args={**head, "include_dashboard": False, "_system_config": health},
        )
        try:
            for node in others:
                cluster.add_node(**node)
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            cluster.wait_for_nodes()
            yield cluster
        finally:
            mute_serve()
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def with_nodes(cluster: Any, *nodes: dict[str, Any]) -> Iterator[list[Any]]:
    """Nodes that a cluster has in the block. Those that are still there at its end are removed, and Ray has noticed."""
    import ray

    before = set(cluster.worker_nodes)
    added = [cluster.add_node(object_store_memory=STORE_BYTES, **node) for node in nodes]
    cluster.wait_for_nodes()
    try:
        yield added
    finally:
        for node in set(cluster.worker_nodes) - before:
            cluster.remove_node(node, allow_graceful=False)
        wait_until(lambda: sum(node["Alive"] for node in ray.nodes()) == 1 + len(before))


def replica_seconds(app: str) -> dict[int, float]:
    """Processor seconds of each replica's process of an application, by its number. Linux only."""
    seconds = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_text(encoding="utf-8", errors="replace")
            fields = (folder / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if title.startswith(f"ray::ServeReplica:{app}"):
            seconds[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return seconds
