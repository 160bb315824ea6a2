"""The engines of a bundle as a cache by content: written whole or not at all, one builder at a time, listed and pruned.

Knows files, not TensorRT. A plan is written under another name, flushed, renamed, and only then gets its record; a build that is
killed, or a disk that fills up, leaves files that no reader takes for an engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...runtime.backends.keys import Key
from ...runtime.backends.tensorrt.engines import (
    FOLDER,
    EngineRecord,
    engine_name,
    plan_problem,
    read_record,
    read_records,
)
from ...runtime.errors import ExportError

try:
    import fcntl
except ImportError:  # Windows: TensorRT's Python builder is used on Linux, but this module must import everywhere
    fcntl = None  # type: ignore[assignment]

PARTIAL = ".partial-"
WAIT_S = 0.2


def stored_engine(bundle: Path, key: Key) -> EngineRecord | None:
    """The engine that was built from exactly this key, or None where there is none or its plan is not whole."""
    record = read_record(bundle / FOLDER / f"{engine_name(key)}.json")
    return record if record is not None and plan_problem(bundle, record) is None else None


def store_engine(bundle: Path, key: Key, plan: Any, report: dict[str, Any]) -> EngineRecord:
    """Write a plan (bytes, or anything that has a buffer) and its record. Raises ExportError where the disk refuses."""
    folder = bundle / FOLDER
    view = memoryview(plan)
    name = engine_name(key)
    record = EngineRecord(
        key=key, plan=f"{name}.plan", size_bytes=view.nbytes, sha256=hashlib.sha256(view).hexdigest(), report=report
    )
    try:
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.json").unlink(missing_ok=True)  # so that it never stands beside a plan it doesn't describe
        write_whole(folder / record.plan, view)
        write_whole(folder / f"{name}.json", json.dumps(asdict(record), indent=1).encode())
    except OSError as error:
        raise ExportError(f"can't write the engine {name} to {str(folder)!r}: {error.strerror or error}") from error
    return record


def write_whole(path: Path, content: memoryview | bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises OSError."""
    descriptor, partial = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


@contextlib.contextmanager
def build_lock(bundle: Path, name: str, on_wait: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of one engine. Another builder of the same engine waits here; `on_wait` returning False gives up.

    The system frees the lock when its holder ends, however it ends. Raises ExportError.
    """
    folder = bundle / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        file = (folder / f".{name}.lock").open("a+b")
    except OSError as error:
        raise ExportError(f"can't write to {str(folder)!r}: {error.strerror or error}") from error
    with file:
        while fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if on_wait() is False:
                    raise ExportError(f"gave up waiting for another builder of {name}") from None
                time.sleep(WAIT_S)
        yield


def list_engines(bundle: Path) -> list[tuple[EngineRecord, str | None]]:
    """Every engine, newest first, with what is wrong with its plan's size, or None."""
    return [(record, plan_problem(bundle, record, every_byte=False)) for record in read_records(bundle)]


def prune(bundle: Path, keep: Callable[[EngineRecord], bool]) -> tuple[list[str], int]:
    """Remove engines that `keep` refuses, damaged ones and leftovers. Gives the removed files and their bytes.

    An engine or leftover of a builder that is at work is left alone.
    """
    folder = bundle / FOLDER
    kept = {record.name for record, damage in list_engines(bundle) if damage is None and keep(record)}
    removed, freed = [], 0
    for path in sorted(folder.glob("*")):
        name = path.name.removesuffix(".plan").removesuffix(".json")
        partial = path.name.startswith(PARTIAL)
        wanted = name in kept or (path.suffix not in (".plan", ".json") and not partial)
        if wanted or not path.is_file() or _is_building(folder, None if partial else name):
            continue
        freed += path.stat().st_size
        path.unlink()
        removed.append(path.name)
    return removed, freed


def _is_building(folder: Path, name: str | None) -> bool:
    """Whether a builder holds the lock of `name`, or of any engine where name is None."""
    if fcntl is None:
        return False
    for path in folder.glob(".*.lock" if name is None else f".{name}.lock"):
        with path.open("a+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
    return False
