"""Locks of files and folders, which keep processes apart.

The system frees a lock when its holder's process ends, even when it is killed.
"""

from __future__ import annotations

import errno
import importlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]
try:
    msvcrt: Any = importlib.import_module("msvcrt")
except ImportError:  # anything but Windows
    msvcrt = None

LOCKED_BYTE = 2**30
"""Windows locks bytes, and nobody can read those: this one lies behind the end of the file."""
LONGEST_WAIT_S = 10.0
PAUSE_S = 0.02


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed, without waiting. False where it is locked already, here or in another process.

    Raises OSError where the filesystem or the system has no locks.
    """
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
    if msvcrt is None:
        raise OSError("this system has no locks of files")
    os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
    return True


def hold_folder(folder: Path) -> int | None:
    """Mark a folder as in use until the returned descriptor is closed. None where the system can't lock folders.

    Several may hold a folder at a time. Waits while `unheld` has it. Raises FileNotFoundError where the folder is gone or was
    replaced by then, TimeoutError where the wait takes longer than LONGEST_WAIT_S.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        raise
    except OSError:
        return None
    try:
        if fcntl is None or not _share(descriptor):
            os.close(descriptor)
            return None
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):
            raise FileNotFoundError(errno.ENOENT, "it was replaced meanwhile", str(folder))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _share(descriptor: int) -> bool:
    """Lock an open folder together with others that share it. False where there are no locks. Raises TimeoutError."""
    end = time.monotonic() + LONGEST_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "another process is removing it") from None
            time.sleep(PAUSE_S)
        except OSError:
            return False


@contextmanager
def unheld(folder: Path) -> Iterator[bool]:
    """Whether no process, this one included, holds the folder with `hold_folder`. If so, none can begin to in the block.

    True where that can't be known.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield True
        return
    try:
        try:
            is_free = try_lock(descriptor)
        except OSError:
            is_free = True
        yield is_free
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> BinaryIO:
    """A lock's file, made where it is missing. Raises OSError for what is no file of its own: a link, a second name, a FIFO."""
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file of its own", str(path))
    return os.fdopen(descriptor, "r+b")


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a folder's lock in the block, to look at its entries and change them undisturbed by others that take the lock.

    Waits for it no longer than LONGEST_WAIT_S. Holds none where the system can't lock folders (Windows).
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        wait_for_lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def wait_for_lock(descriptor: int) -> None:
    """Lock an open file until it is closed, waiting no longer than LONGEST_WAIT_S; goes on without a lock after that."""
    end = time.monotonic() + LONGEST_WAIT_S
    try:
        while not try_lock(descriptor) and time.monotonic() < end:
            time.sleep(PAUSE_S)
    except OSError:
        return
