"""Puts the checkpoint's weight files into the bundle without copying a byte where the filesystem allows it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from ...runtime.errors import ExportError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FICLONE = 0x40049409  # linux/fs.h: share another file's blocks
COPYING_FAILS_TOO = (errno.ENOSPC, errno.EDQUOT, errno.ENOENT)
"""Errors of a link that a copy meets as well: the disk is full, the source is missing. Others say that no link is possible."""


def place(source: Path, target: Path) -> bool:
    """Make `target` the same bytes as `source`: a hard link, else a reflink, else a copy. True if bytes were copied.

    Links (as in the Hugging Face cache) are resolved first, because ONNX Runtime reads no link that leaves the bundle.
    Raises ExportError where the disk is full or not writable; then nothing is left at `target`.
    """
    real = source.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(real, target)
        return False
    except OSError as error:
        if error.errno in COPYING_FAILS_TOO:
            raise _failure(target, error) from error
    try:
        return not _reflink(real, target) and _copy(real, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise _failure(target, error) from error


def _reflink(source: Path, target: Path) -> bool:
    if fcntl is None:
        return False
    with source.open("rb") as reading, target.open("wb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
        except OSError:
            return False
    return True


def _copy(source: Path, target: Path) -> bool:
    if shutil.disk_usage(target.parent).free < source.stat().st_size:  # known before gigabytes are written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    shutil.copyfile(source, target)
    return True


def _failure(target: Path, error: OSError) -> ExportError:
    return ExportError(f"can't write {str(target)!r}: {error.strerror or error}")
