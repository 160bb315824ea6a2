"""The engines of a bundle as a content-addressed cache: atomic writes, one builder at a time, list and prune.

Knows files, not TensorRT. A plan is written before its record, each atomically: a killed build or a full disk leaves no engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from ...runtime.backends.cache_keys import Key
from ...runtime.backends.tensorrt.engines import (
    FOLDER,
    EngineRecord,
    engine_name,
    plan_problem,
    read_record,
    read_records,
)
from ...runtime.errors import ExportError
from ...runtime.files.locking import try_lock
from ...runtime.files.writing import PARTIAL, write_whole

WAIT_S = 0.2


def stored_engine(bundle: Path, key: Key) -> EngineRecord | None:
    """The engine of exactly this key, or None where the bundle has none or its plan is damaged."""
    record = read_record(bundle / FOLDER / f"{engine_name(key)}.json")
    return record if record is not None and plan_problem(bundle, record) is None else None


def store_engine(bundle: Path, key: Key, plan: Any, report: dict[str, Any]) -> EngineRecord:
    """Write a plan (a buffer) and its record. Raises ExportError where the disk refuses."""
    folder = bundle / FOLDER
    view = memoryview(plan)
    name = engine_name(key)
    record = EngineRecord(
        key=key, plan=f"{name}.plan", size_bytes=view.nbytes, sha256=hashlib.sha256(view).hexdigest(), report=report
    )
    try:
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").unlink(missing_ok=True)  # a record never stands beside another plan
        write_whole(folder / record.plan, view)
        write_whole(folder / f"{name}.json", json.dumps(asdict(record), indent=1))
    except OSError as error:
        raise ExportError(f"can't write the engine {name} to {str(folder)!r}: {error.strerror or error}") from error
    return record


@contextlib.contextmanager
def build_lock(bundle: Path, name: str, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of one engine. Waits for another builder of the same engine until `on_wait` returns False.

    The system frees the lock when its holder's process ends, even when it is killed. Raises ExportError.
    """
    folder = bundle / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / f".{name}.lock").open("a+b")
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
    return [(record, plan_problem(bundle, record, every_byte=False)) for record in read_records(bundle)]


def prune(bundle: Path, keep: Callable[[EngineRecord], bool]) -> tuple[list[str], int]:
    """Remove engines that `keep` refuses, damaged ones and leftovers. Returns the removed files' names and their bytes.

    Files of a running build stay.
    """
    folder = bundle / FOLDER
    stays = {record.name for record, damage in list_engines(bundle) if damage is None and keep(record)}
    removed, freed = [], 0
    for path in sorted(folder.glob("*")):
        name = path.name.removesuffix(".plan").removesuffix(".json")
        is_partial = path.name.startswith(PARTIAL)
        is_kept = name in stays or (path.suffix not in (".plan", ".json") and not is_partial)
        if is_kept or not path.is_file() or _is_building(folder, None if is_partial else name):
            continue
        freed += path.stat().st_size
        path.unlink()
        removed.append(path.name)
    return removed, freed


def _is_building(folder: Path, name: str | None) -> bool:
    """Whether a builder holds the lock of `name`, or of any engine where name is None."""
    for path in folder.glob(".*.lock" if name is None else f".{name}.lock"):
        with path.open("a+b") as file:
            if not _lock(file):
                return True
    return False


def _lock(file: BinaryIO) -> bool:
    """Whether the file is locked for this process now, or can't be: without locks, builders are not kept apart."""
    try:
        return try_lock(file.fileno())
    except OSError:
        return True
