"""A bundle on disk: its manifest checked against the files beside it.

Knows nothing of the tools that wrote it or the engines that will run it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .dtypes import PRECISIONS
from .errors import BundleError
from .files.hashes import file_hash, header_hash
from .files.unfinished import unfinished_hint
from .manifest import MANIFEST, FileSpec, GraphSpec, Manifest

CALIBRATION = "calibration.txt"
"""The model's own prompts for calibrating a quantized bundle, one a line; a bundle may lack it."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest. Make one with `Bundle.open`."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest and check graph hashes, file sizes and safetensors headers (not 15 GB of weights).

        Raises BundleError where anything is missing, changed or newer than this release.
        """
        folder = Path(path)
        manifest = folder / MANIFEST
        if not manifest.is_file():
            raise BundleError(f"{str(path)!r} is not a bundle (no {MANIFEST}){_hint(folder)}")
        try:
            text = manifest.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{str(manifest)!r} can't be read: {error}") from error
        bundle = cls(folder, Manifest.from_json(text, str(manifest)))
        bundle._check()
        return bundle

    def verify(self, progress: Callable[[str], None] | None = None) -> None:
        """Hash every byte of every file against the manifest. Raises BundleError naming the first that differs."""
        for spec in self.manifest.files:
            if progress:
                progress(spec.file)
            _expect_hash(self.path / spec.file, spec.sha256)

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
        for graph in self.manifest.graphs:
            _expect_hash(self.path / graph.file, graph.sha256)
            if graph.inlined is not None and graph.inlined_sha256 is not None:
                _expect_hash(self.path / graph.inlined, graph.inlined_sha256)
        for spec in self.manifest.files:
            _check_file(self.path / spec.file, spec)


def _hint(folder: Path) -> str:
    """A hint at what a folder without a manifest may be instead."""
    if (folder / "model_index.json").is_file():
        return ": it is a checkpoint; run `omnigen2 export` on it first"
    if unfinished := unfinished_hint(folder):
        return unfinished
    if folder.is_file():
        return ": it is a file; give the bundle's folder"
    return "" if folder.is_dir() else ": there is no such folder"


def _check_file(path: Path, spec: FileSpec) -> None:
    if not path.is_file():
        raise BundleError(f"{str(path)!r} is missing: the bundle is incomplete; export it again")
    size = path.stat().st_size
    if size != spec.size_bytes:
        raise BundleError(f"{str(path)!r} has {size} bytes where the bundle says {spec.size_bytes}: export it again")
    if spec.header_sha256 is not None and header_hash(path) != spec.header_sha256:
        raise BundleError(f"the header of {str(path)!r} has changed since the export: export it again")


def _expect_hash(path: Path, expected: str) -> None:
    if not path.is_file():
        raise BundleError(f"{str(path)!r} is missing: the bundle is incomplete; export it again")
    if file_hash(path) != expected:
        raise BundleError(f"{str(path)!r} has changed since the export: export it again")
