"""Giving back the memory of mapped weight files, once an engine has made its own copy of what it read there. Linux alone.

Such pages are only a copy of the file, and the system takes them back when memory is short; until then they count as this
process's own, beside the engine's copy. Whoever reads them again gets them from the file again. Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

MADV_DONTNEED = 4
READ_AND_SHARED = b"r--s"
"""What is mapped so is the file itself: no page of it can have been changed here, and none is lost."""
MAPS = Path("/proc/self/maps")


def give_back(addresses: Iterable[int]) -> int:
    """Give back every mapping of a file, read-only, that one of the addresses lies in; returns how many there were.

    The caller keeps these mappings alive meanwhile, so that no other memory can come to lie there. Where the system doesn't tell
    what is mapped, nothing is given back.
    """
    if not sys.platform.startswith("linux"):
        return 0
    mappings = _mapped_files()
    starts = [start for start, _ in mappings]
    last_before = {address: bisect_right(starts, address) - 1 for address in addresses}
    found = {mappings[index] for address, index in last_before.items() if index >= 0 and address < mappings[index][1]}
    library = ctypes.CDLL(None)
    given = 0
    for start, end in found:
        given += library.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), MADV_DONTNEED) == 0
    return given


def _mapped_files() -> list[tuple[int, int]]:
    """Where files are mapped to be read alone: first address and the one after the last, ascending."""
    try:
        lines = MAPS.read_bytes().split(b"\n")
    except OSError:
        return []
    rights = [line.split(maxsplit=2)[:2] for line in lines if line]
    mapped = [ends for ends, allowed in rights if allowed == READ_AND_SHARED]
    return [(int(first, 16), int(end, 16)) for first, end in (ends.split(b"-") for ends in mapped)]
