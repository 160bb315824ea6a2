"""Releases the pages of mapped weight files, once an engine has its own copy of them. Linux only.

The system takes such pages back when memory is short; until then they count as this process's memory, beside the engine's copy.
They are read from the file again when they are needed again. Elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

MADV_DONTNEED = 4
READ_ONLY_SHARED = b"r--s"
"""Such a mapping is the file itself: no page of it can have been changed here, so none is lost."""
MAPS = Path("/proc/self/maps")


def release_pages(addresses: Iterable[int]) -> int:
    """Release every read-only mapping of a file that contains one of the addresses. Returns the number of mappings.

    The caller keeps these mappings alive meanwhile, so that no other memory takes their addresses. Where the system doesn't list
    its mappings, nothing is released.
    """
    if not sys.platform.startswith("linux"):
        return 0
    mappings = _mapped_files()
    starts = [start for start, _ in mappings]
    last_before = {address: bisect_right(starts, address) - 1 for address in addresses}
    matches = {mappings[index] for address, index in last_before.items() if index >= 0 and address < mappings[index][1]}
    madvise = ctypes.CDLL(None).madvise
    return sum(madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED) == 0 for start, end in matches)


def _mapped_files() -> list[tuple[int, int]]:
    """The read-only mappings of files, ascending: the first address of each and the one after its last."""
    try:
        lines = MAPS.read_bytes().split(b"\n")
    except OSError:
        return []
    fields = [line.split(maxsplit=2)[:2] for line in lines if line]
    ranges = [addresses.split(b"-") for addresses, access in fields if access == READ_ONLY_SHARED]
    return [(int(first, 16), int(end, 16)) for first, end in ranges]
