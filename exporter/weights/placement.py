"""Puts the checkpoint's weight files into the bundle without copying a byte where the filesystem allows it."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from ...runtime.errors import ExportError

FICLONE = 0x40049409  # linux/fs.h: share another file's blocks


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
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES):
            raise _failure(target, error) from error
    try:
        return not _reflink(real, target) and _copy(real, target)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise _failure(target, error) from error


def _reflink(source: Path, target: Path) -> bool:
    with source.open("rb") as reading, target.open("wb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
        except OSError:
            return False
    return True


def _copy(source: Path, target: Path) -> bool:
    shutil.copyfile(source, target)
    return True


def _failure(target: Path, error: OSError) -> ExportError:
    return ExportError(f"can't write {str(target)!r}: {error.strerror or error}")
