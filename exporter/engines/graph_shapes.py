"""Shape inference on a graph file without its weights: every tensor's type and shape, and which tensors are constants.

Closes two gaps of onnx's own inference: it doesn't infer GroupNormalization's output, and doesn't follow sizes through a division
or a reshaped scalar. Knows nothing of TensorRT.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
from onnx import ModelProto, NodeProto, numpy_helper
from onnx.reference import ReferenceEvaluator

SAME_AS_INPUT = frozenset({"GroupNormalization"})
"""Operators whose output has their first input's type and shape, which onnx doesn't infer."""
INTEGER_MATH = frozenset(
    {"Add", "Cast", "Concat", "Div", "Gather", "Mul", "Neg", "Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze"}
)
"""Operators that compute sizes."""
MAX_SIZE_ELEMENTS = 64
"""Larger constants hold no sizes."""


@dataclass(frozen=True, kw_only=True)
class Types:
    """The known element types (onnx's numbers) and shapes of a graph's tensors, and its constants' names."""

    dtypes: Mapping[str, int]
    shapes: Mapping[str, tuple[int | str, ...]]
    constants: frozenset[str]


def load_graph(path: Path, inputs: Mapping[str, Sequence[int]] | None = None) -> ModelProto:
    """A graph without its weights, with inferred types and shapes.

    inputs: all inputs' shapes as numbers, in place of the graph's named sizes. Then every size is a number, and the nodes that
    compute sizes become constants.
    """
    model = onnx.load(path, load_external_data=False)
    if inputs is None:
        return _inferred(model)
    for value in model.graph.input:
        value.type.tensor_type.shape.CopyFrom(_shape(inputs[value.name]))
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    model = _inferred(model)
    while _replace_sizes(model):
        model = _inferred(model)
    return model


def tensor_types(model: ModelProto) -> Types:
    """The types and shapes that a model's value infos and initializers state."""
    graph = model.graph
    dtypes: dict[str, int] = {}
    shapes: dict[str, tuple[int | str, ...]] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        dtypes[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    for weight in graph.initializer:
        dtypes[weight.name] = weight.data_type
        shapes[weight.name] = tuple(weight.dims)
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return Types(dtypes=dtypes, shapes=shapes, constants=frozenset(constants | {weight.name for weight in graph.initializer}))


def _shape(sizes: Sequence[int]) -> onnx.TensorShapeProto:
    shape = onnx.TensorShapeProto()
    for size in sizes:
        shape.dim.add().dim_value = size
    return shape


def _inferred(model: ModelProto) -> ModelProto:
    """The model after onnx's inference, during which an Identity replaces each operator of SAME_AS_INPUT."""
    substitute = ModelProto()
    substitute.CopyFrom(model)
    for node in substitute.graph.node:
        if node.op_type in SAME_AS_INPUT:
            node.op_type = "Identity"
            del node.input[1:]
            del node.attribute[:]
    inferred = onnx.shape_inference.infer_shapes(substitute, data_prop=True)
    for node, original in zip(inferred.graph.node, model.graph.node, strict=True):
        if original.op_type in SAME_AS_INPUT:
            node.CopyFrom(original)
    return inferred


def _replace_sizes(model: ModelProto) -> bool:
    """Turn the nodes that compute sizes from known shapes into constants. Returns whether there were any."""
    values = _small_constants(model)
    shapes = tensor_types(model).shapes
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    replaced = False
    for node in model.graph.node:
        value = _value(node, values, shapes, opsets)
        if value is not None:
            values[node.output[0]] = value
            _become_constant(node, value)
            replaced = True
    return replaced


def _small_constants(model: ModelProto) -> dict[str, np.ndarray]:
    tensors = {weight.name: weight for weight in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in tensors.items()
        if not tensor.external_data and int(np.prod(tensor.dims)) <= MAX_SIZE_ELEMENTS
    }


def _value(
    node: NodeProto,
    values: Mapping[str, np.ndarray],
    shapes: Mapping[str, tuple[int | str, ...]],
    opsets: Mapping[str, int],
) -> np.ndarray | None:
    """The integers that a node computes, or None where they aren't known."""
    if node.op_type == "Shape":
        shape = shapes.get(node.input[0], ("?",))
        bounds = {entry.name: entry.i for entry in node.attribute}
        part = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
        return None if any(isinstance(size, str) for size in part) else np.array(part, np.int64)
    if node.op_type not in INTEGER_MATH or any(name not in values for name in node.input if name):
        return None
    feeds = {name: values[name] for name in node.input if name}
    results: Any = ReferenceEvaluator(node, opsets=dict(opsets)).run(None, feeds)
    value = np.asarray(results[0])
    return value if np.issubdtype(value.dtype, np.integer) else None


def _become_constant(node: NodeProto, value: np.ndarray) -> None:
    constant = onnx.helper.make_node("Constant", [], [node.output[0]], name=node.name, value=numpy_helper.from_array(value))
    node.CopyFrom(constant)
