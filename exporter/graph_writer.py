"""Writes a bundle's graphs, each file whole or not at all, and completes their entries in its manifest.

Knows nothing of checkpoints or quantization schemes; needs no PyTorch.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import onnx.inliner
import onnx_ir as ir

from ..runtime.dtypes import PRECISIONS
from ..runtime.files.hashes import file_hash
from ..runtime.files.writing import write_whole
from ..runtime.manifest import GraphSpec


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
