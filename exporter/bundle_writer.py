"""Writes a bundle's files, each whole or not at all, and their entries in its manifest.

Knows nothing of checkpoints, graphs or quantization schemes; needs neither PyTorch nor onnx.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..runtime.errors import ExportError
from ..runtime.files.hashes import file_hash, header_hash
from ..runtime.files.writing import write_whole
from ..runtime.manifest import MANIFEST, FileSpec, Manifest


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns an OSError in the block into an ExportError."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"can't write {error.filename or str(target)!r}: {error.strerror or error}") from error


def file_spec(folder: Path, name: str) -> FileSpec:
    """The manifest's entry for a file of the bundle in `folder`."""
    path = folder / name
    return FileSpec(
        file=name,
        size_bytes=path.stat().st_size,
        sha256=file_hash(path),
        header_sha256=header_hash(path) if path.suffix == ".safetensors" else None,
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json, which makes the folder a bundle: the last file to be written."""
    write_whole(folder / MANIFEST, manifest.to_json())
