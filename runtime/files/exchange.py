"""Exchanges two folders in one step, where the system can."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

CURRENT_FOLDER = -100  # AT_FDCWD, linux/fcntl.h
RENAME_EXCHANGE = 2  # linux/fs.h


def exchange(first: Path, second: Path) -> bool:
    """Give each of two folders the other's name: at no moment is one of the names missing.

    Returns False, and changes nothing, where the system or the filesystem can't.
    """
    if not sys.platform.startswith("linux"):
        return False
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    names = (CURRENT_FOLDER, os.fsencode(first), CURRENT_FOLDER, os.fsencode(second))
    return bool(renameat2(*names, RENAME_EXCHANGE) == 0)
