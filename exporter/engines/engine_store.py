"""The engines of a bundle as a content-addressed cache: atomic writes, one builder at a time, list and prune.

Knows files, and neither library. A plan is written before its record, each atomically: a killed build or a full disk leaves no
engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ...runtime.backends.cache_keys import Key
from ...runtime.backends.tensorrt.engines import plan_problem
from ...runtime.backends.tensorrt.kernel_cache import KERNELS_NAME
from ...runtime.backends.tensorrt.records import (
    ENGINE_NAME,
    EngineRecord,
    engine_folder,
    engine_name,
    read_record,
    read_records,
    regular_files,
)
from ...runtime.errors import ExportError
from ...runtime.files.locking import open_lock, try_lock
from ...runtime.files.writing import PARTIAL_NAME, atomic_file, write_whole

WAIT_S = 0.2
LOCK_NAME = re.compile(r"\..*\.lock")


def stored_engine(bundle: Path, key: Key) -> EngineRecord | None:
    """The engine of exactly this key that this user built or trusts, or None where there is none or its plan is damaged."""
    try:
        record = read_record(engine_folder(bundle) / f"{engine_name(key)}.json")
    except (OSError, ValueError):
        return None
    return record if record.is_own() and plan_problem(bundle, record) is None else None


class NewPlan:
    """A plan that is being written: its bytes go to a file that gets its name at the end. Raises OSError."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.restart()

    def write(self, data: bytes) -> None:
        """Add the next bytes."""
        self._file.write(data)
        self._hash.update(data)
        self.size_bytes += len(data)

    def restart(self) -> None:
        """Forget what was written."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size_bytes = 0

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()


def store_engine(bundle: Path, key: Key, build: Callable[[NewPlan], dict[str, Any]]) -> EngineRecord:
    """Have `build` write a plan and return its report, then write the record with this user's MAC.

    Raises ExportError where the disk refuses, and what `build` raises; nothing is left then.
    """
    folder = engine_folder(bundle)
    name = engine_name(key)
    try:
        folder.mkdir(exist_ok=True)
        with atomic_file(folder / f"{name}.plan") as file:
            plan = NewPlan(file)
            report = build(plan)
            (folder / f"{name}.json").unlink(missing_ok=True)  # a record never stands beside another plan
        record = EngineRecord(
            key=key, plan=f"{name}.plan", size_bytes=plan.size_bytes, sha256=plan.sha256, report=report
        ).signed()
        _write_record(folder, record)
    except OSError as error:
        raise ExportError(f"can't write the engine {name} to {str(folder)!r}: {error.strerror or error}") from error
    return record


def _write_record(folder: Path, record: EngineRecord) -> None:
    write_whole(folder / f"{record.name}.json", json.dumps(asdict(record), indent=1))


def trust(bundle: Path) -> list[str]:
    """Give every whole engine of a bundle this user's MAC, so that it may run. Returns the names of those that had none.

    Raises ExportError where the disk refuses.
    """
    trusted = []
    for record, damage in list_engines(bundle):
        if damage is None and plan_problem(bundle, record) is None and not record.is_own():
            try:
                _write_record(engine_folder(bundle), record.signed())
            except OSError as error:
                raise ExportError(f"can't write the record of {record.name}: {error.strerror or error}") from error
            trusted.append(record.name)
    return trusted


@contextlib.contextmanager
def build_lock(bundle: Path, name: str, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of one engine. Waits for another builder of the same engine until `on_wait` returns False.

    The system frees the lock when its holder's process ends, even when it is killed. Raises ExportError.
    """
    folder = engine_folder(bundle)
    try:
        folder.mkdir(exist_ok=True)
        file = open_lock(folder / f".{name}.lock")
    except OSError as error:
        raise ExportError(f"can't write to {str(folder)!r}: {error.strerror or error}") from error
    with file:
        while not _lock(file):
            if on_wait() is False:
                raise ExportError(f"gave up waiting for another builder of {name}")
            time.sleep(WAIT_S)
        yield


def list_engines(bundle: Path) -> list[tuple[EngineRecord, str | None]]:
    """Every engine, newest first, with the damage that its plan's size shows, or None."""
    return [(record, plan_problem(bundle, record, every_byte=False)) for record in read_records(bundle)[0]]


def prune(bundle: Path, keep: Callable[[EngineRecord], bool]) -> tuple[list[str], int]:
    """Remove engines that `keep` refuses, damaged ones and leftovers. Returns the removed files' names and their bytes.

    Only regular files whose names are an engine's, its kernels' or a leftover's go. Files of a running build stay.
    Raises BackendError where the folder is a link.
    """
    folder = engine_folder(bundle)
    stays = {record.name for record, damage in list_engines(bundle) if damage is None and keep(record)}
    removed, freed = [], 0
    for path, state in regular_files(folder):
        is_partial = PARTIAL_NAME.fullmatch(path.name) is not None
        name = _engine_of(path)
        if not (is_partial or name) or name in stays or _is_building(folder, name):
            continue
        freed += state.st_size
        path.unlink()
        removed.append(path.name)
    return removed, freed


def _engine_of(path: Path) -> str | None:
    """The name of the engine that a file belongs to, or None."""
    if path.suffix in (".plan", ".json") and ENGINE_NAME.fullmatch(path.stem):
        return path.stem
    kernels = KERNELS_NAME.fullmatch(path.name)
    return kernels["engine"] if kernels else None


def is_being_built(bundle: Path) -> bool:
    """Whether a process builds an engine of the bundle now. Raises BackendError where its folder of engines is a link."""
    return _is_building(engine_folder(bundle), None)


def _is_building(folder: Path, name: str | None) -> bool:
    """Whether a builder holds the lock of `name`, or of any engine where name is None."""
    for path, _ in regular_files(folder):
        if path.name != f".{name}.lock" and (name is not None or LOCK_NAME.fullmatch(path.name) is None):
            continue
        with open_lock(path) as file:
            if not _lock(file):
                return True
    return False


def _lock(file: BinaryIO) -> bool:
    """Whether the file is locked for this process now, or can't be: without locks, builders are not kept apart."""
    try:
        return try_lock(file.fileno())
    except OSError:
        return True
