"""A connection to a Ray cluster. Ray is imported here, late and with its telemetry off unless the user has set it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.errors import OmniGen2Error
from .address import check_address
from .messages import Note, mute_serve, routed_messages

LOCAL_STORE_BYTES = 2**29
"""Ray's object store on a cluster of this machine alone: room for the largest requests of many replicas."""


def import_ray() -> Any:
    """Ray, with its telemetry off unless the user has set it. A call without a connection fails: it would start a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray

    return ray


@contextmanager
def connected(address: str, note: Note) -> Iterator[None]:
    """A connection for the block. address: "local" starts a cluster of this machine for it, "auto" takes the one that runs here.

    note: called with what Ray reports meanwhile. A process that is connected already stays so. Raises OmniGen2Error where no
    cluster answers.
    """
    check_address(address)
    ray = import_ray()
    with routed_messages(ray, note):
        if ray.is_initialized():
            yield
            return
        with _connection(ray, address):
            yield


@contextmanager
def _connection(ray: Any, address: str) -> Iterator[None]:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": LOCAL_STORE_BYTES}
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises errors of many kinds here
        reason = f"no Ray cluster answers there ({error}): start this machine's part of it with `ray start`, or give local"
        raise OmniGen2Error(f"--ray {address!r}: {reason}") from error
    try:
        yield
    finally:
        mute_serve()
        ray.shutdown()


def last_line(text: str) -> str:
    """The last line of a trace: the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason is known"
