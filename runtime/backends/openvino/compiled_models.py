"""Compiled models on disk: a graph that was compiled on this machine before opens faster.

Each is a file in the bundle's `compiled/`: a header with the key of what it was compiled from, then the engine's own bytes. A
damaged file is not used, and the graph is compiled again. Where the folder can't be written, nothing is kept. Knows no engine.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...files.writing import PARTIAL, atomic_file
from ...manifest import GraphSpec
from ..cache_keys import Key, digest, weight_identity

FOLDER = "compiled"
FORMAT_VERSION = 5
"""Counts up with every change of how a graph is compiled (other rewrites) and of these files' layout."""
OUTDATING = ("format", "graph", "weights", "engine")
"""Parts of a key whose change makes older models useless."""
HEADER_BYTES = 4096
"""One page, so that the model behind it can be mapped."""
LARGEST_BYTES = 256 << 20
"""A compiled model contains its weights, and each precision and thread count has its own: larger ones take much disk and save
little time (462 MB of weights open in 0.7 s instead of 2 s)."""
LEFTOVER_S = 3600
"""A temporary file that is older than this was left by a process that was killed."""
LEFTOVERS = (f"{PARTIAL}*", "*.partial")
"""Names of temporary files; the second pattern is that of older versions."""


def make_key(bundle: Bundle, graph: GraphSpec, *, engine: str, cpu: str, options: Mapping[str, Any]) -> Key:
    """Everything that decides what a compiled model is.

    A weight file counts by its hash in the manifest and by its modification time.

    engine: the engine's version.
    cpu: a hash of the CPU's properties.
    options: the engine's options.
    """
    changed = [[spec.file, (bundle.path / spec.file).stat().st_mtime_ns] for spec in bundle.manifest.files]
    return {
        "format": FORMAT_VERSION,
        "component": graph.component,
        "precision": graph.precision,
        "graph": graph.inlined_sha256 or graph.sha256,
        "weights": hashlib.sha256(json.dumps([weight_identity(bundle), changed]).encode()).hexdigest(),
        "engine": engine,
        "cpu": cpu,
        "options": {name: str(value) for name, value in options.items()},
    }


class CompiledModels:
    """The compiled models of one bundle. Several processes may use them at once."""

    def __init__(self, bundle: Path) -> None:
        self._folder = bundle / FOLDER

    @staticmethod
    def keeps(graph: GraphSpec) -> bool:
        """Whether a graph's model is small enough to be kept."""
        return graph.resident_bytes <= LARGEST_BYTES

    def load(self, key: Key) -> np.ndarray | None:
        """The model of a key as mapped bytes, or None where there is none or it isn't whole."""
        path = self._path(key)
        try:
            header = _header(path)
            if header is None or header["key"] != key or path.stat().st_size != HEADER_BYTES + header["size"]:
                return None
            mapped = np.memmap(path, np.uint8, mode="c", offset=HEADER_BYTES)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return mapped if hashlib.sha256(mapped.data).hexdigest() == header["sha256"] else None

    def store(self, key: Key, model: bytes) -> None:
        """Keep a model, and drop outdated ones. Keeps nothing where the disk is full or the bundle read-only."""
        header = json.dumps({"key": key, "size": len(model), "sha256": hashlib.sha256(model).hexdigest()}).encode()
        assert len(header) < HEADER_BYTES
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            with atomic_file(self._path(key)) as file:
                file.write(header.ljust(HEADER_BYTES - 1) + b"\n")
                file.write(model)
            self._drop_outdated(key)

    def _path(self, key: Key) -> Path:
        return self._folder / f"{key['component']}.{key['precision']}.{digest(key)}.blob"

    def _drop_outdated(self, key: Key) -> None:
        """Removes models of other weights, for example, but not those with other options or of another CPU."""
        for path in self._folder.glob(f"{key['component']}.{key['precision']}.*.blob"):
            header = _header(path)
            if header is None or any(header["key"].get(name) != key[name] for name in OUTDATING):
                path.unlink(missing_ok=True)
        for path in (path for pattern in LEFTOVERS for path in self._folder.glob(pattern)):
            if path.stat().st_mtime < time.time() - LEFTOVER_S:
                path.unlink(missing_ok=True)


def _header(path: Path) -> dict[str, Any] | None:
    """A file's header, or None where it has none. Raises OSError where it can't be read."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    try:
        header = json.loads(head)
    except ValueError:
        return None
    return header if isinstance(header, dict) and isinstance(header.get("key"), dict) else None
