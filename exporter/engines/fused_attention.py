"""Attention nodes of a graph, and whether TensorRT has a fused kernel for them. None of it was tried on a GPU."""

from __future__ import annotations

from onnx import ModelProto

from .graph_shapes import tensor_types

FUSED_WIDTHS = range(16, 257, 8)
"""Head widths that may have a fused attention kernel."""


def has_attention(model: ModelProto) -> bool:
    """Whether the graph has an Attention node, and so may lack a fused kernel."""
    return any(node.op_type == "Attention" for node in model.graph.node)


def lacks_fused_attention(model: ModelProto, precision: str) -> bool:
    """Whether an Attention node certainly has no fused kernel: its type is float32, or its head width isn't in FUSED_WIDTHS."""
    if precision == "fp32":
        return has_attention(model)
    shapes = tensor_types(model).shapes
    for node in model.graph.node:
        shape = shapes.get(node.input[0], ()) if node.op_type == "Attention" else ()
        if len(shape) == 4 and isinstance(shape[3], int) and shape[3] not in FUSED_WIDTHS:
            return True
    return False
