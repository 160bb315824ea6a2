"""A bundle on disk: its manifest checked against the files beside it.

Knows nothing of the tools that wrote it or the engines that will run it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from .dtypes import PRECISIONS
from .errors import BundleError
from .files.bundle_paths import link_problem
from .files.hashes import file_hash, header_hash
from .files.json_text import LFS_POINTER, refuse_pointer
from .files.onnx_weights import MAX_GRAPH_BYTES, external_tensors
from .files.reading import open_regular, read_bytes
from .files.unfinished import unfinished_hint
from .manifest import MANIFEST, FileSpec, GraphSpec, Manifest

MAX_PROMPT_BYTES = 2**20
"""The largest file of calibration prompts; each line of it costs two drawings."""
CALIBRATION = "calibration.txt"
"""The model's own prompts for calibrating a quantized bundle, one a line; a bundle may lack it."""
MAX_MANIFEST_BYTES = 16 * 2**20
"""The largest manifest that is read: nano's takes 35 KB."""
OWN_FOLDERS = ("compiled", "engines")
"""Folders of a bundle that are written on the machine that runs it."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest. Make one with `Bundle.open`."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest and check graphs, file sizes and safetensors headers (not 15 GB of weights).

        A file that the manifest doesn't name is never read: a graph that takes its weights from one is refused. Files that nobody
        reads (README.md) may lie around.
        Raises BundleError where anything is missing, changed, outside the folder or newer than this release.
        """
        if not isinstance(path, str | os.PathLike):
            raise BundleError(f"bundle must be the name of a folder (str or path), not {type(path).__name__}")
        folder = Path(path)
        manifest = folder / MANIFEST
        try:
            if problem := link_problem(folder, MANIFEST):
                raise ValueError(problem)
            text = read_bytes(manifest, MAX_MANIFEST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            raise BundleError(f"{str(path)!r} is not a bundle (no {MANIFEST}){_hint(folder)}") from None
        except (OSError, ValueError) as error:
            raise BundleError(f"{str(manifest)!r} {_reason(error)}") from error
        bundle = cls(folder, Manifest.from_json(text, str(manifest)))
        bundle._check()
        return bundle

    def verify(self, progress: Callable[[str], None] | None = None) -> None:
        """Hash every byte of every file against the manifest. Raises BundleError naming the first that differs."""
        for name, digest in self.hashes.items():
            if progress:
                progress(name)
            with self._reading(name) as path:
                _expect(file_hash(path), digest)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """The hash of every file that the manifest names: graphs, their twins and the others."""
        return {name: digest for name, digest in [*_graph_files(self.manifest), *_other_files(self.manifest)]}

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of the bundle's graphs, in the order fp32, fp16, bf16."""
        present = {graph.precision for graph in self.manifest.graphs}
        return tuple(precision for precision in PRECISIONS if precision in present)

    def graph(self, component: str, precision: str) -> GraphSpec:
        """The graph of a component. Raises BundleError where the bundle has none."""
        for graph in self.manifest.graphs:
            if (graph.component, graph.precision) == (component, precision):
                return graph
        raise BundleError(
            f"the bundle {str(self.path)!r} has no {component} graph in {precision}; it holds {', '.join(self.precisions)}: "
            f"export it with --precision {precision}"
        )

    def _check(self) -> None:
        _check_names(self.manifest)
        sizes = {spec.file: spec.size_bytes for spec in self.manifest.files}
        for name, digest in _graph_files(self.manifest):
            with self._reading(name) as path:
                content = read_bytes(path, MAX_GRAPH_BYTES)
                refuse_pointer(content)
                _expect(sha256(content).hexdigest(), digest)
                _check_weights(name, content, sizes)
        for spec in self.manifest.files:
            with self._reading(spec.file) as path:
                _check_file(path, spec)

    @contextmanager
    def _reading(self, name: str) -> Iterator[Path]:
        """The path of a file that is read in the block. Raises BundleError where it can't be, or lies elsewhere."""
        path = self.path / name
        try:
            if problem := link_problem(self.path, name):
                raise ValueError(problem)
            yield path
        except FileNotFoundError:
            raise BundleError(f"{str(path)!r} is missing: the bundle is incomplete; export it again") from None
        except (OSError, ValueError) as error:
            raise BundleError(f"{str(path)!r} {_reason(error)}") from error


def _graph_files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    """The name and hash of every graph's file and of its twin without functions."""
    for graph in manifest.graphs:
        yield graph.file, graph.sha256
        if graph.inlined is not None and graph.inlined_sha256 is not None:
            yield graph.inlined, graph.inlined_sha256


def _other_files(manifest: Manifest) -> Iterator[tuple[str, str]]:
    return ((spec.file, spec.sha256) for spec in manifest.files)


def _check_names(manifest: Manifest) -> None:
    """Raises BundleError for a name or a graph that occurs twice, a reserved name, or a tokenizer that isn't listed."""
    if not manifest.graphs:
        raise BundleError(f"{MANIFEST}.graphs is empty: a bundle has at least a graph; export it again")
    names = [name for name, _ in [*_graph_files(manifest), *_other_files(manifest)]]
    graphs = [(graph.component, graph.precision) for graph in manifest.graphs]
    for what, entries in ("the file", [name.casefold() for name in names]), ("the graph", graphs):
        if twice := [entry for entry, count in Counter(entries).items() if count > 1]:
            raise BundleError(f"{MANIFEST} names {what} {twice[0]!r} twice: export the bundle again")
    for name in names:
        if name.casefold() == MANIFEST or name.casefold().split("/")[0] in OWN_FOLDERS:
            raise BundleError(f"{MANIFEST} names the file {name!r}, which the runtime writes itself: export the bundle again")
    if manifest.tokenizer not in {spec.file for spec in manifest.files}:
        raise BundleError(f"{MANIFEST}.tokenizer is {manifest.tokenizer!r}, which files doesn't list: export the bundle again")


def _check_weights(name: str, graph: bytes, sizes: Mapping[str, int]) -> None:
    """Raises ValueError for a graph with a weight that isn't inside a file of `sizes`. Engines look beside the graph's file."""
    folder = name.rpartition("/")[0]
    for tensor in external_tensors(graph):
        file = f"{folder}/{tensor.location}" if folder else tensor.location
        if file not in sizes:
            raise ValueError(f"takes weights from {file!r}, which {MANIFEST} doesn't list: export the bundle again")
        if tensor.offset + tensor.nbytes > sizes[file]:
            raise ValueError(f"takes weights from behind the end of {file!r}: export the bundle again")


def _hint(folder: Path) -> str:
    """A hint at what a folder without a manifest may be instead."""
    if os.path.isfile(folder / "model_index.json"):
        return ": it is a checkpoint; run `omnigen2 export` on it first"
    if unfinished := unfinished_hint(folder):
        return unfinished
    if os.path.isfile(folder):
        return ": it is a file; give the bundle's folder"
    return "" if os.path.isdir(folder) else ": there is no such folder"


def _check_file(path: Path, spec: FileSpec) -> None:
    with open_regular(path) as file:
        refuse_pointer(file.read(len(LFS_POINTER)))
        size = file.seek(0, os.SEEK_END)
    if size != spec.size_bytes:
        raise ValueError(f"has {size} bytes where the bundle says {spec.size_bytes}: export it again")
    if spec.header_sha256 is not None and header_hash(path) != spec.header_sha256:
        raise BundleError(f"the header of {str(path)!r} has changed since the export: export it again")


def _expect(digest: str, expected: str) -> None:
    if digest != expected:
        raise ValueError("has changed since the export: export it again")


def _reason(error: OSError | ValueError) -> str:
    """The end of a message after a file's name."""
    if isinstance(error, OSError | UnicodeError) or "null byte" in str(error):
        return f"can't be read: {getattr(error, 'strerror', None) or error}"
    return str(error)
