"""Writes the files of a bundle, each whole or not at all, and their entries in its manifest.

Knows nothing of checkpoints or quantization schemes; needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnx
import onnx.inliner
import onnx_ir as ir

from ..runtime.dtypes import PRECISIONS
from ..runtime.errors import ExportError
from ..runtime.files.hashes import file_hash, header_hash
from ..runtime.files.writing import write_whole
from ..runtime.manifest import MANIFEST, FileSpec, GraphSpec, Manifest


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns an OSError in the block into an ExportError."""
    try:
        yield
    except OSError as error:
        raise ExportError(f"can't write {error.filename or str(target)!r}: {error.strerror or error}") from error


def write_graph(path: Path, model: ir.Model) -> None:
    """Write a graph. Its weights stay where they are."""
    write_whole(path, ir.to_proto(model).SerializeToString())


def write_inlined_graph(path: Path, model: ir.Model) -> None:
    """Write a graph with its local functions inlined, for runtimes that know no functions."""
    write_whole(path, onnx.inliner.inline_local_functions(ir.to_proto(model)).SerializeToString())


def complete_graph_spec(
    spec: GraphSpec, folder: Path, model: ir.Model, compute: str, packed: str | None = None
) -> GraphSpec:
    """`spec` with the hashes of its files in `folder` and the sizes of the weights in its graph, `model`.

    compute: the precision that the graph computes in. packed: the file of quantized weights, which are held as stored.
    """
    stored = [value.const_value for value in model.graph.initializers.values()]
    weights = [tensor for tensor in stored if isinstance(tensor, ir.ExternalTensor)]
    rounded_bytes = sum(tensor.nbytes for tensor in weights if tensor.location == packed)
    converted = sum(tensor.size for tensor in weights if tensor.location != packed)
    return replace(
        spec,
        sha256=file_hash(folder / spec.file),
        inlined_sha256=None if spec.inlined is None else file_hash(folder / spec.inlined),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
        resident_bytes=rounded_bytes + converted * PRECISIONS[compute].itemsize,
        rounded_bytes=rounded_bytes,
    )


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
