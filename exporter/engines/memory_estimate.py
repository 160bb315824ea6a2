"""An estimate of an engine's GPU memory from its graph, before it is built.

Weights are the manifest's figure. Inputs and outputs follow from the largest profile. Scratch is the most memory that the graph's
intermediate tensors take at once, node by node in their order, plus the score matrix of an attention that has no fused kernel.
TensorRT fuses nodes, which takes less, and gives tactics a workspace, which takes more. Only a build gives the exact figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from ...runtime.dtypes import DTYPES
from ...runtime.manifest import GraphSpec
from .graph_shapes import Types, load_graph, tensor_types

VIEWS = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose output shares their input's memory."""


def tensor_bytes(graph: GraphSpec, sizes: Mapping[str, int]) -> int:
    """Bytes of all inputs and outputs of a graph, where its dynamic sizes have these values."""
    return sum(
        DTYPES[spec.dtype].itemsize * math.prod(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)
        for spec in (*graph.inputs.values(), *graph.outputs.values())
    )


def scratch_bytes(graph: Path, inputs: Mapping[str, Sequence[int]], *, fused_attention: bool) -> int:
    """The estimated scratch of a graph file for inputs of these shapes."""
    return peak_live_bytes(load_graph(graph, inputs), fused_attention=fused_attention)


def peak_live_bytes(model: ModelProto, *, fused_attention: bool) -> int:
    """The most bytes of intermediate tensors that are live at once, in a graph whose shapes are all numbers."""
    types = tensor_types(model)
    external = {value.name for value in (*model.graph.input, *model.graph.output)} | types.constants
    owners = _owners(model)
    last_uses = {
        owners.get(name, name): index for index, node in enumerate(model.graph.node) for name in (*node.input, *node.output)
    }
    live: dict[str, int] = {}
    peak = 0
    for index, node in enumerate(model.graph.node):
        live |= {name: _bytes(name, types) for name in node.output if name and name not in owners and name not in external}
        scores = 0 if fused_attention else _score_bytes(node, types)
        peak = max(peak, sum(live.values()) + scores)
        for name in {owners.get(name, name) for name in (*node.input, *node.output)}:
            if last_uses[name] == index:
                live.pop(name, None)
    return peak


def _owners(model: ModelProto) -> dict[str, str]:
    """The tensor whose memory each view shares, by the view's name."""
    owners: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in VIEWS:
            owners[node.output[0]] = owners.get(node.input[0], node.input[0])
    return owners


def _score_bytes(node: NodeProto, types: Types) -> int:
    """Bytes of an attention's score matrix, (B, H, Sq, Sk) in the query's type; 0 for any other node."""
    if node.op_type != "Attention":
        return 0
    batch, heads, queries, _ = _sizes(node.input[0], types)
    return batch * heads * queries * _sizes(node.input[1], types)[2] * _item_bytes(node.input[0], types)


def _bytes(name: str, types: Types) -> int:
    return math.prod(_sizes(name, types)) * _item_bytes(name, types)


def _sizes(name: str, types: Types) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else 0 for size in types.shapes.get(name, (0,)))


def _item_bytes(name: str, types: Types) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(types.dtypes.get(name, onnx.TensorProto.FLOAT)).itemsize)
