"""Writes a bundle in a marked folder beside its target, one process at a time, and gives it the target's name at the end.

`runtime/files/unfinished.py` describes the folder. Only a folder that bears the mark of work for the same target, and that no
process is at work in, is taken over (where the job is the same too) or removed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..runtime.errors import ExportError
from ..runtime.files.exchange import exchange
from ..runtime.files.hashes import file_hash
from ..runtime.files.json_text import read_object
from ..runtime.files.locking import folder_lock, open_lock, try_lock, unheld
from ..runtime.files.unfinished import (
    LOCK,
    MARK,
    NEW,
    OLD,
    PREFIX,
    PROGRESS,
    REPLACING,
    has_our_name,
    is_own_mark,
    marked_folders,
    signed_mark,
    unfinished_folders,
)
from ..runtime.files.writing import PARTIAL, temporary_name, write_whole
from ..runtime.manifest import MANIFEST
from .target import check_not_read, check_target, check_writable, other_unfinished_files, resolve_target


class BusyError(ExportError):
    """Another process is writing the same bundle."""


@dataclass(frozen=True)
class Work:
    """A piece of work that makes a bundle.

    kind: "export", "quantize" or "merge".
    target: the folder to make, from `prepare_target`.
    source: the name of what it is made from, for messages.
    reads: the files and folders that are read.
    job: everything that decides the result, as JSON values: work with an equal job may take over what was finished.
    force: whether an existing bundle is replaced; None: that isn't offered.
    """

    kind: str
    target: Path
    source: str
    reads: Sequence[Path]
    job: Mapping[str, Any]
    force: bool | None = None

    def mark(self) -> dict[str, str]:
        """The content of this work's mark."""
        job = json.dumps(self.job, sort_keys=True).encode()
        source = self.source.encode(errors="replace").decode()
        return {"kind": self.kind, "target": self.target.as_uri(), "source": source, "job": hashlib.sha256(job).hexdigest()}


@dataclass(frozen=True)
class Staging:
    """A folder of unfinished work, locked. Make one with `open_staging`."""

    folder: Path
    work: Work
    lock: BinaryIO | None

    @property
    def bundle(self) -> Path:
        """The folder that becomes the bundle."""
        return self.folder / NEW

    def progress(self) -> dict[str, Any]:
        """The progress that was saved last, by this process or by one whose work was taken over; empty where there is none."""
        try:
            return read_object(self.folder / PROGRESS)
        except (OSError, ValueError):
            return {}

    def save_progress(self, finished: Mapping[str, Any]) -> None:
        """Save what another process can take over. Raises OSError."""
        write_whole(self.folder / PROGRESS, json.dumps(finished))

    def publish(self) -> None:
        """Give the bundle the target's name, and remove the rest. Raises ExportError, OSError."""
        target = self.work.target
        with folder_lock(target.parent):
            try:
                check_target(target, self.work.force)
            except ExportError as error:
                raise ExportError(f"{error}; the finished bundle lies in {str(self.bundle)!r}") from error
            if target.exists():
                self._replace(target)
            else:
                os.rename(self.bundle, target)
            _remove(self.folder, self.lock)

    def _replace(self, target: Path) -> None:
        """Put the bundle in the existing one's place in one step, or in two: the first is undone where the second fails."""
        write_whole(self.folder / REPLACING, file_hash(self.bundle / MANIFEST))
        if exchange(self.bundle, target):
            return
        os.rename(target, self.folder / OLD)
        try:
            os.rename(self.bundle, target)
        except OSError:
            os.rename(self.folder / OLD, target)
            (self.folder / REPLACING).unlink()
            raise


def prepare_target(bundle: str | Path, force: bool | None) -> Path:
    """The absolute path of the folder to make, for `Work`. Finishes first what a killed process left half done there.

    Raises ExportError where the target exists and may not be replaced, or no folder can be made there.
    """
    target = resolve_target(bundle)
    with suppress(OSError), folder_lock(target.parent):
        _recover(target)
    check_target(target, force)
    check_writable(target)
    return target


@contextmanager
def open_staging(work: Work) -> Iterator[Staging]:
    """The staging of the work: a new one, or that of a process that ended before the same job was done.

    After an error it is removed, unless it holds saved progress or a whole bundle.
    Raises BusyError where another process is at work on the target, ExportError where it exists and isn't to be replaced.
    """
    parent = work.target.parent
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with folder_lock(parent):
            _recover(work.target)
            found = _take_over(work)
            if found is not None and found.lock is not None:
                stack.enter_context(found.lock)
            check_target(work.target, work.force)
            staging = found or _new_staging(work)
            if staging.lock is not None:
                stack.enter_context(staging.lock)
        try:
            yield staging
        except BaseException:
            if not ((staging.folder / PROGRESS).exists() or (staging.bundle / MANIFEST).exists()):
                with folder_lock(parent):
                    _remove(staging.folder, staging.lock)
            raise


def remove_bundle(folder: Path, check: Callable[[], object]) -> None:
    """Remove a bundle and all that its folder holds. Raises BusyError where it is in use, OSError, and what `check` raises.

    check: called when nobody can open or replace the bundle any more.
    The folder first moves into a marked folder: where that is stopped midway, `remove_unfinished` goes on with it.
    """
    with ExitStack() as stack:
        with folder_lock(folder.parent), unheld(folder) as is_free:
            if not is_free:
                raise BusyError("it is in use")
            check()
            staging = _new_staging(Work("removal", folder, str(folder), (), {}))
            if staging.lock is not None:
                stack.enter_context(staging.lock)
            staging.bundle.rmdir()
            os.rename(folder, staging.bundle)
        _remove(staging.folder, staging.lock)
    if staging.folder.exists():
        raise OSError(errno.EACCES, "can't be removed whole", str(staging.folder))


def remove_unfinished(parent: Path, kinds: Sequence[str]) -> dict[Path, str | None]:
    """Remove the folders of work of these kinds that processes of this user left unfinished in `parent`, an absolute path.

    Returns those folders, each with the reason why it stays, or None. Folders stay, and aren't returned, whose mark somebody else
    wrote, and those that a process is at work in.
    """
    found: dict[Path, str | None] = {}
    with suppress(OSError), folder_lock(parent):
        for folder, mark in marked_folders(parent):
            with suppress(OSError):  # gone, or no locks here: a process may be at work in it
                if mark["kind"] in kinds and is_own_mark(folder, mark) and (lock := _lock(folder)) is not None:
                    foreign = next(other_unfinished_files(folder), None)
                    _remove(folder, lock)
                    found[folder] = None if foreign is None else f"it holds {foreign!r}, which this program didn't write"
    return found


def _recover(target: Path) -> None:
    """Finish or undo a replacement that was stopped midway, and remove what was left after the target got its name."""
    for folder, _ in unfinished_folders(target):
        with suppress(OSError):  # OSError: gone, or no locks here: a process may be at work in it
            lock = _lock(folder)
            if lock is None:
                continue
            with lock:
                if (folder / OLD).exists() and not os.path.lexists(target):
                    os.rename(folder / OLD, target)
                    (folder / REPLACING).unlink()
                if not _can_go_on(folder) and not _holds_the_only_copy(folder):
                    _remove(folder, lock)


def _can_go_on(folder: Path) -> bool:
    """Whether `new` is the unfinished bundle still: after an exchange it is the old one, after a rename it isn't there.

    `replacing` holds the hash of the unfinished bundle's manifest.
    """
    if (folder / OLD).exists():
        return False
    try:
        return (folder / REPLACING).read_text(encoding="ascii") == file_hash(folder / NEW / MANIFEST)
    except FileNotFoundError:
        return (folder / NEW).is_dir() and not (folder / REPLACING).exists()
    except (OSError, UnicodeDecodeError):
        return False


def _holds_the_only_copy(folder: Path) -> bool:
    """Whether an existing bundle lost its name, and something else has the name now that never was in this staging."""
    return (folder / OLD).exists() and (folder / NEW).exists()


def _take_over(work: Work) -> Staging | None:
    """The staging that was left by the same job, if any; others that were left for the target are removed."""
    _remove_empty(work.target.parent)
    found = None
    for folder, mark in unfinished_folders(work.target):
        check_not_read(folder, work.reads)
        try:
            lock = _lock(folder)
        except OSError:  # gone, or no locks here: a process may be at work in it
            continue
        if lock is None:
            raise BusyError(_busy(work.target, folder, mark))
        if found is None and mark.items() >= work.mark().items() and _can_go_on(folder) and _is_resumable(folder):
            found = Staging(folder, work, lock)
        elif _holds_the_only_copy(folder):
            lock.close()
        else:
            _remove(folder, lock)
    if found is not None:
        _remove_leftovers(found.folder)
    return found


def _is_resumable(folder: Path) -> bool:
    """Whether a folder holds progress, and nothing that would get into the bundle from somewhere else."""
    return (folder / PROGRESS).exists() and not any(other_unfinished_files(folder))


def _new_staging(work: Work) -> Staging:
    folder = work.target.parent / f"{PREFIX}{secrets.token_hex(16)}"
    mark = json.dumps(signed_mark(folder, work.mark()), indent=1).encode()
    folder.mkdir(0o700)
    with (folder / MARK).open("xb") as file:
        file.write(mark)
    try:
        lock = _lock(folder)
    except OSError:  # no locks here: nobody takes it over, so nobody comes between
        lock = None
    (folder / NEW).mkdir()
    return Staging(folder, work, lock)


def _lock(folder: Path) -> BinaryIO | None:
    """The folder's lock with this process's number in it, or None where another holds it.

    Raises OSError where the folder is gone or there are no locks.
    """
    file = open_lock(folder / LOCK)
    try:
        if not try_lock(file.fileno()):
            file.close()
            return None
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}).encode())
        file.flush()
    except OSError:
        file.close()
        raise
    return file


def _busy(target: Path, folder: Path, mark: Mapping[str, Any]) -> str:
    try:
        holder = read_object(folder / LOCK)
        worker = f"process {int(holder['process'])}, since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        worker = "another process"
    work = f"{mark['kind']} of {str(mark.get('source'))!r}"
    return f"{worker}, is writing {str(target)!r} ({work}): wait until it ends, or choose another name"


def _remove(folder: Path, lock: BinaryIO | None) -> None:
    """Remove a staging, the mark last: where that fails or is stopped midway, the next work for the target goes on with it.

    Leaves it whole where it holds a file of somebody's own.
    """
    with suppress(OSError), ExitStack() as stack:
        if lock is not None:
            stack.enter_context(lock)
        if any(other_unfinished_files(folder)):
            return
        for path in (folder / NEW, folder / OLD):
            if path.exists():  # half of a bundle must not be taken for the whole one
                os.rename(path, folder / temporary_name())
        for path in folder.iterdir():
            if path.name not in (MARK, LOCK):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        stack.close()  # Windows removes no open file
        (folder / LOCK).unlink(missing_ok=True)
        (folder / MARK).unlink()
        folder.rmdir()


def _remove_empty(parent: Path) -> None:
    """Remove folders of our name that hold nothing: their process was killed as it made them."""
    for folder in parent.glob(f"{PREFIX}*"):
        if has_our_name(folder):
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _remove_leftovers(folder: Path) -> None:
    """Delete a killed process's temporary files and its manifest, which would make the folder look whole before it is."""
    for path in folder.rglob(f"{PARTIAL}*"):
        path.unlink()
    (folder / NEW / MANIFEST).unlink(missing_ok=True)
