"""Files that are read within bounds: regular files only, so that a FIFO doesn't wait and a device doesn't flood."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a FIFO doesn't wait; Windows changes no bytes


def open_regular(path: str | Path) -> BufferedReader:
    """The file, opened for reading. Raises OSError where it can't be opened or is a FIFO, a device or a folder."""
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        is_folder = stat.S_ISDIR(mode)
        number, reason = (errno.EISDIR, os.strerror(errno.EISDIR)) if is_folder else (errno.EINVAL, "not a regular file")
        raise OSError(number, reason, str(path))
    return os.fdopen(descriptor, "rb")


def read_bytes(path: str | Path, limit_bytes: int) -> bytes:
    """The content of a regular file. Raises OSError where it can't be read or is larger than the limit."""
    with open_regular(path) as file:
        content = file.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise OSError(errno.EFBIG, f"larger than {limit_bytes} bytes, the most that is read", str(path))
    return content
