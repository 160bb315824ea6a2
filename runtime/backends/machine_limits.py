"""The cores and the memory that this process may use, and the limits that a caller may set."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

from ..errors import BackendError, shown

GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""The memory limit of a Linux container in bytes, or "max"."""


THREADS_EVERYWHERE = 16
"""The threads that are allowed on a machine of fewer cores, too: a setting may travel."""


def check_limits(*, memory_limit_bytes: int | None, threads: int | None) -> None:
    """Raises BackendError for a limit that is neither None nor a whole number of 1 or more, and for more threads than cores.

    Engines start that many threads for each component: thousands of them would take the whole machine.
    """
    for name, value in (("memory_limit_bytes", memory_limit_bytes), ("threads", threads)):
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise BackendError(f"{name}={shown(value)} is not a whole number of 1 or more, or None")
    most = max(os.cpu_count() or 1, THREADS_EVERYWHERE)
    if threads is not None and threads > most:
        raise BackendError(f"threads={shown(threads)} is above the most here, {most}; this machine has {os.cpu_count()} cores")


def usable_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory_bytes() -> int:
    """The machine's memory, or the container's limit if that is lower; where neither is known, `sys.maxsize`."""
    sizes = [sys.maxsize]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        sizes.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        sizes.append(int(GROUP_LIMIT.read_text(encoding="ascii")))
    return min(size for size in sizes if size > 0)
