"""Compiled models on disk: a graph that an engine compiled here once is opened faster the second time.

Each is a file in the bundle's `compiled/`: a header that says what it was compiled from, then the engine's own bytes. Whatever
is wrong with a file, it is not used and the graph is compiled again. Where the folder can't be written, nothing is kept.
Knows no engine.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...manifest import GraphSpec
from ..tensorrt.engines import Key, digest, weight_identity

FOLDER = "compiled"
FORMAT_VERSION = 5
"""Counts up when a graph is compiled in another way than before: other rewrites, another layout of these files."""
LASTING = ("format", "graph", "weights", "engine")
"""Parts of a key without which a model is of no use any more."""
HEADER_BYTES = 4096
"""A whole page, so that the model behind it can be mapped."""
LARGEST_BYTES = 256 << 20
"""A compiled model holds its weights, and each precision and thread count is another one: larger ones cost more disk than they
save time (462 MB of weights are opened in 0.7 s instead of 2 s)."""
FORGOTTEN_S = 3600
"""A temporary file that is older than this was left behind by a process that was killed."""


def make_key(bundle: Bundle, graph: GraphSpec, *, engine: str, cpu: str, options: Mapping[str, Any]) -> Key:
    """Everything that decides what a compiled model is. engine, cpu: versions and hashes; options: what the engine was told.

    A weight file counts by its hash in the manifest and by when it was last changed.
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
        """Whether a graph is small enough to be kept."""
        return graph.resident_bytes <= LARGEST_BYTES

    def load(self, key: Key) -> np.ndarray | None:
        """The model of a key as mapped bytes, or None where there is none, or one that isn't whole."""
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
        """Keep a model, and drop those that this one replaces. A full disk or a read-only bundle keeps nothing."""
        header = json.dumps({"key": key, "size": len(model), "sha256": hashlib.sha256(model).hexdigest()}).encode()
        assert len(header) < HEADER_BYTES
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            _write(self._path(key), header.ljust(HEADER_BYTES - 1) + b"\n", model)
            self._drop_replaced(key)

    def _path(self, key: Key) -> Path:
        return self._folder / f"{key['component']}.{key['precision']}.{digest(key)}.blob"

    def _drop_replaced(self, key: Key) -> None:
        """A model of other weights, say, can't be used again; one with other options or of another CPU can."""
        for path in self._folder.glob(f"{key['component']}.{key['precision']}.*.blob"):
            header = _header(path)
            if header is None or any(header["key"].get(name) != key[name] for name in LASTING):
                path.unlink(missing_ok=True)
        for path in self._folder.glob("*.partial"):
            if path.stat().st_mtime < time.time() - FORGOTTEN_S:
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


def _write(path: Path, header: bytes, model: bytes) -> None:
    """The whole file or nothing."""
    handle, temporary = tempfile.mkstemp(suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header)
            file.write(model)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
