"""Compiled models on disk: a graph that was compiled on this machine before opens faster.

They lie in the user's cache folder, never in a bundle: whoever made a bundle would otherwise choose what runs in the name of its
graphs. Each file is a page with its MAC and the key of what it was compiled from, then the engine's own bytes. A file without the
right MAC is not used, and the graph is compiled again. Where the user's secret can't be kept, no model is. Knows no engine.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...files.json_text import parse_object
from ...files.reading import open_regular
from ...files.user_cache import user_cache
from ...files.writing import PARTIAL_NAME, atomic_file
from ...manifest import GraphSpec
from ..cache_keys import Key, digest, weight_identity

FOLDER = "openvino"
PURPOSE = "OpenVINO model"
FORMAT_VERSION = 7
"""Counts up with every change of how a graph is compiled (other rewrites) and of these files' layout."""
OUTDATING = ("format", "graph", "files", "engine")
"""Parts of a key whose change makes older models of the same bundle useless."""
MAC_DIGITS = 64
HEADER_BYTES = 4096
"""One page, so that the model behind it can be mapped."""
LARGEST_BYTES = 256 << 20
"""A compiled model contains its weights, and each precision and thread count has its own: larger ones take much disk and save
little time (462 MB of weights open in 0.7 s instead of 2 s)."""
MOST_BYTES = 2 << 30
"""The most that all models together take. Beyond it, those that were not used for the longest time go."""
LEFTOVER_S = 3600
"""A temporary file that is older than this was left by a process that was killed."""
MODEL_NAME = re.compile(r"[\w-]+\.\w+\.[0-9a-f]{16}\.blob")


def make_key(bundle: Bundle, graph: GraphSpec, *, engine: str, cpu: str, options: Mapping[str, Any]) -> Key:
    """Everything that decides what a compiled model is.

    A file counts by its hash in the manifest, and by its size and times on disk: what is compiled is the file, not its hash. The
    bundle's folder counts too, so that no bundle gets a model that was compiled from the files of another.

    engine: the engine's version.
    cpu: a hash of the CPU's properties.
    options: the engine's options.
    """
    folder = os.path.realpath(bundle.path)
    names = [graph.inlined or graph.file, *(spec.file for spec in bundle.manifest.files)]
    files = [weight_identity(bundle), [_state(bundle.path / name) for name in names]]
    return {
        "format": FORMAT_VERSION,
        "bundle": hashlib.sha256(os.fsencode(folder)).hexdigest(),
        "component": graph.component,
        "precision": graph.precision,
        "graph": graph.inlined_sha256 or graph.sha256,
        "files": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "engine": engine,
        "cpu": cpu,
        "options": {name: str(value) for name, value in options.items()},
    }


def _state(path: Path) -> tuple[int, int, int]:
    """A file's size and times. No archive sets the time of the last change of a file's state."""
    state = path.stat()
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


class CompiledModels:
    """The compiled models of every bundle that this user runs. Several processes may use them at once."""

    def __init__(self) -> None:
        self._cache = user_cache()
        self._folder = self._cache.folder / FOLDER

    @staticmethod
    def keeps(graph: GraphSpec) -> bool:
        """Whether a graph's model is small enough to be kept."""
        return graph.resident_bytes <= LARGEST_BYTES

    def load(self, key: Key) -> np.ndarray | None:
        """The model of a key as mapped bytes, or None where there is none or it isn't what this user kept."""
        path = self._path(key)
        try:
            with open_regular(path) as file:
                mapped = np.memmap(file, np.uint8, mode="c")
        except (OSError, ValueError):
            return None
        if not self._is_own(mapped) or _key(mapped[:HEADER_BYTES].tobytes()) != key:
            return None
        with suppress(OSError):
            os.utime(path)  # the time of its last use
        return mapped[HEADER_BYTES:]

    def store(self, key: Key, model: bytes) -> None:
        """Keep a model, and drop outdated ones. Keeps nothing where the disk is full or the user's secret can't be kept."""
        if self._cache.problem is not None:
            return
        stated = json.dumps(key).encode().ljust(HEADER_BYTES - MAC_DIGITS)
        assert len(stated) == HEADER_BYTES - MAC_DIGITS
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            with atomic_file(self._path(key)) as file:
                file.write(self._cache.mac(PURPOSE, stated, model).encode())
                file.write(stated)
                file.write(model)
            self._drop_outdated(key)

    def _is_own(self, content: np.ndarray) -> bool:
        """Whether this user wrote a file of this content."""
        expected = self._cache.mac(PURPOSE, content[MAC_DIGITS:].data).encode()
        return content.size > HEADER_BYTES and hmac.compare_digest(content[:MAC_DIGITS].tobytes(), expected)

    def _path(self, key: Key) -> Path:
        return self._folder / _name(key)

    def _drop_outdated(self, key: Key) -> None:
        """Removes models of the bundle's former weights, for example, but not those with other options or of another CPU.

        Then the least recently used of all bundles', as long as they take too much, and leftovers of killed processes.
        """
        kept = []
        for path, state in self._files(MODEL_NAME):
            stored = _read_key(path)
            if stored is None or _name(stored) != path.name:
                continue  # not one of ours, whatever its name
            same = all(stored.get(name) == key[name] for name in ("bundle", "component", "precision"))
            if same and any(stored.get(name) != key[name] for name in OUTDATING):
                path.unlink(missing_ok=True)
            else:
                kept.append((state.st_mtime_ns, state.st_size, path))
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= MOST_BYTES:
                break
            path.unlink(missing_ok=True)
            total -= size
        for path, state in self._files(PARTIAL_NAME):
            if state.st_mtime < time.time() - LEFTOVER_S:
                path.unlink(missing_ok=True)

    def _files(self, name: re.Pattern[str]) -> Iterator[tuple[Path, os.stat_result]]:
        """The regular files of such a name, and no links."""
        for path in sorted(self._folder.iterdir()):
            if name.fullmatch(path.name):
                with suppress(FileNotFoundError):  # another process removed it
                    state = path.lstat()
                    if stat.S_ISREG(state.st_mode):
                        yield path, state


def _name(key: Key) -> str:
    component = re.sub(r"\W", "-", str(key.get("component")))  # it comes from a manifest, and must not lead out of the folder
    return f"{component}.{key.get('precision')}.{digest(key)}.blob"


def _read_key(path: Path) -> Key | None:
    """The key that a file states, or None where it states none."""
    try:
        with open_regular(path) as file:
            return _key(file.read(HEADER_BYTES))
    except OSError:
        return None


def _key(header: bytes) -> Key | None:
    try:
        return parse_object(header[MAC_DIGITS:])
    except ValueError:
        return None
