"""Puts the checkpoint's weight files into the bundle without copying a byte where the filesystem allows it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import ExportError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FICLONE = 0x40049409  # linux/fs.h: share another file's blocks
COPYING_FAILS_TOO = (errno.ENOSPC, errno.EDQUOT, errno.ENOENT)
"""Errors of a link that a copy meets as well: the disk is full, the source is missing. Others say that no link is possible."""
OTHER_FILESYSTEM = "the new folder lies on another filesystem, and no link leads there"
OTHER_USER = "they belong to another user, and this system allows no links to them (fs.protected_hardlinks)"


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The files that had to be copied, because no link to their bytes was possible.

    reasons: why, each once.
    """

    count: int = 0
    size_bytes: int = 0
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.count > 0

    def __str__(self) -> str:
        """The line for a person."""
        files = "1 file was" if self.count == 1 else f"{self.count} files were"
        return f"{files} copied ({self.size_bytes / 1e6:.1f} MB): {'; '.join(self.reasons)}"


def place(source: Path, target: Path) -> str | None:
    """Make `target` the same bytes as `source`: a hard link, else a reflink, else a copy.

    Returns the reason why bytes had to be copied, or None. Links (as in the Hugging Face cache) are resolved first, because
    ONNX Runtime reads no link that leaves the bundle. Raises ExportError where the disk is full or not writable; then nothing
    is left at `target`.
    """
    real = source.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(real, target)
        return None
    except OSError as error:
        if error.errno in COPYING_FAILS_TOO:
            raise _failure(target, error) from error
        reason = _reason(real, error)
    try:
        if _reflink(real, target):
            return None
        _copy(real, target)
        return reason
    except OSError as error:
        target.unlink(missing_ok=True)
        raise _failure(target, error) from error


def place_all(files: Iterable[tuple[Path, Path]]) -> Copies:
    """Place several files, each a source and a target. Returns those that were copied. Raises as `place`."""
    reasons = {target: reason for source, target in files if (reason := place(source, target)) is not None}
    size = sum(target.stat().st_size for target in reasons)
    return Copies(count=len(reasons), size_bytes=size, reasons=tuple(dict.fromkeys(reasons.values())))


def _reason(source: Path, error: OSError) -> str:
    """The reason why no link to a file is possible."""
    if error.errno == errno.EXDEV:
        return OTHER_FILESYSTEM
    is_of_another = hasattr(os, "geteuid") and source.stat().st_uid != os.geteuid()
    if is_of_another and error.errno in (errno.EPERM, errno.EACCES):
        return OTHER_USER
    return f"no link is possible there ({error.strerror or error})"


def _reflink(source: Path, target: Path) -> bool:
    if fcntl is None:
        return False
    with source.open("rb") as reading, target.open("wb") as writing:
        try:
            fcntl.ioctl(writing.fileno(), FICLONE, reading.fileno())
        except OSError:
            return False
    return True


def _copy(source: Path, target: Path) -> None:
    if shutil.disk_usage(target.parent).free < source.stat().st_size:  # known before gigabytes are written
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    shutil.copyfile(source, target)


def _failure(target: Path, error: OSError) -> ExportError:
    return ExportError(f"can't write {str(target)!r}: {error.strerror or error}")
