"""How much GPU memory an engine will want, before it is built: an estimate from the graph.

Weights are what the manifest says. Inputs and outputs follow from the largest profile. Scratch is the most that lives at once
between the graph's nodes, walked in their order, with the score matrix of an attention that has no fused kernel. TensorRT fuses
nodes, which takes less, and gives tactics a workspace, which takes more; it says the true figure only after a build.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from ...runtime.manifest import GraphSpec
from .graph_shapes import Types, load_graph, tensor_types

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int64": 8, "bool": 1}
VIEWS = frozenset({"Identity", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators whose output is their input's memory."""


def tensor_bytes(graph: GraphSpec, sizes: Mapping[str, int]) -> int:
    """All inputs and outputs of a graph, where its dynamic sizes have these values."""
    return sum(
        ITEM_BYTES[spec.dtype] * math.prod(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)
        for spec in (*graph.inputs.values(), *graph.outputs.values())
    )


def scratch_bytes(graph: Path, inputs: Mapping[str, Sequence[int]], *, fused_attention: bool) -> int:
    """The estimated scratch of a graph file for inputs of these shapes."""
    return most_alive_bytes(load_graph(graph, inputs), fused_attention=fused_attention)


def most_alive_bytes(model: ModelProto, *, fused_attention: bool) -> int:
    """The most bytes that live at once between the nodes of a graph whose shapes are all numbers."""
    types = tensor_types(model)
    elsewhere = {value.name for value in (*model.graph.input, *model.graph.output)} | types.constants
    source: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in VIEWS:
            source[node.output[0]] = source.get(node.input[0], node.input[0])
    last_use = {
        source.get(name, name): place for place, node in enumerate(model.graph.node) for name in (*node.input, *node.output)
    }
    alive: dict[str, int] = {}
    most = 0
    for place, node in enumerate(model.graph.node):
        for name in node.output:
            if name and name not in source and name not in elsewhere:
                alive[name] = _bytes(name, types)
        scores = 0 if fused_attention else _score_bytes(node, types)
        most = max(most, sum(alive.values()) + scores)
        for name in {source.get(name, name) for name in (*node.input, *node.output)}:
            if last_use[name] == place:
                alive.pop(name, None)
    return most


def _score_bytes(node: NodeProto, types: Types) -> int:
    """The score matrix of an attention: (B, H, Sq, Sk) in the query's type."""
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
