"""The cores and the memory that this process may use."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""The memory limit of a Linux container in bytes, or "max"."""


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
