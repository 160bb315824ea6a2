"""What this process may use of the machine that it runs on."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux tells a container how much memory it may take; "max" if nobody limits it."""


def usable_cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def usable_memory_bytes() -> int:
    """The machine's memory, or the container's limit if that is lower; where neither is told, more than any model needs."""
    told = [sys.maxsize]
    if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", {}):
        told.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):
        told.append(int(GROUP_LIMIT.read_text(encoding="ascii")))
    return min(size for size in told if size > 0)
