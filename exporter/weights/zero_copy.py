"""Weights stay where they are: an initializer becomes a pointer to its bytes inside the checkpoint's own safetensors file.

A graph computes in one precision and its weights may be stored in another. Then the initializer has the stored type and a Cast
follows it, so that graphs of every precision share one weight file. A table that is only gathered from is cast after the gather:
a few rows, not the vocabulary.

The nodes that cast and transpose weights stand first in the graph. ONNX Runtime walks a graph from its outputs back, and before
a node it runs those of its inputs that stand later in the graph, then those that stand earlier: each weight is cast right before
its product. With the casts beside their products, all of them ran before the first layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ...runtime.dtypes import BY_SAFETENSORS
from ...runtime.errors import ExportError
from ...runtime.files.safetensors_header import TensorLocation
from .tensor_file import WEIGHT_DTYPES


def attach_weights(model: ir.Model, locations: Mapping[str, TensorLocation], bundle: Path, compute: ir.DataType) -> None:
    """Point every empty initializer of the model at its bytes, and cast where the stored type isn't `compute`.

    locations: by parameter name, with paths inside `bundle`.
    Raises ExportError where a parameter has no bytes or a type that graphs can't read.
    """
    for name, value in list(model.graph.initializers.items()):
        if value.const_value is not None:
            continue
        if name not in locations:
            raise ExportError(f"the checkpoint holds no tensor for {name!r}: is it complete?")
        tensor = _external_tensor(name, locations[name], bundle)
        if tensor.dtype == compute:
            value.const_value, value.shape, value.dtype = tensor, tensor.shape, compute
        else:
            _insert_cast(model.graph, value, tensor, compute)
    _put_weights_first(model.graph)


def _put_weights_first(graph: ir.Graph) -> None:
    """Move the nodes that cast and transpose weights to the front."""
    weights = set(graph.initializers.values())
    moved = []
    for node in graph:
        if node.op_type in ("Cast", "Transpose") and node.inputs[0] in weights:
            moved.append(node)
            weights.update(node.outputs)
    graph.remove(moved)
    graph.insert_before(graph[0], moved)


def _external_tensor(name: str, location: TensorLocation, bundle: Path) -> ir.ExternalTensor:
    if location.dtype not in WEIGHT_DTYPES:
        allowed = ", ".join(WEIGHT_DTYPES)
        raise ExportError(f"tensor {name!r} is stored as {location.dtype}; allowed are {allowed}: convert the checkpoint first")
    return ir.ExternalTensor(
        location.path.relative_to(bundle).as_posix(),
        location.offset,
        location.nbytes,
        ir.DataType(BY_SAFETENSORS[location.dtype].onnx),
        shape=ir.Shape(location.shape),
        name=name,
        base_dir=bundle,
    )


def _insert_cast(graph: ir.Graph, value: ir.Value, tensor: ir.ExternalTensor, compute: ir.DataType) -> None:
    assert value.name is not None
    name = value.name
    users = [user for user, _ in value.uses()]
    del graph.initializers[name]
    stored = ir.Value(name=name, shape=ir.Shape(tensor.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers[name] = stored
    if users and all(user.op_type == "Gather" and user.inputs[0] is value for user in users):
        for gather in users:
            gather.replace_input_with(0, stored)
            _cast_after(graph, gather, tensor.dtype, compute)
        return
    cast = ir.node("Cast", [stored], attributes={"to": compute.value}, name=f"{name}.cast")
    cast.outputs[0].name = f"{name}.cast"
    graph.insert_before(graph[0], cast)
    ir.convenience.replace_all_uses_with(value, cast.outputs[0])


def _cast_after(graph: ir.Graph, gather: ir.Node, stored: ir.DataType, compute: ir.DataType) -> None:
    rows = gather.outputs[0]
    cast = ir.node("Cast", [rows], attributes={"to": compute.value}, name=f"{gather.name}.cast")
    consumers = [(user, index) for user, index in rows.uses() if user is not cast]
    graph.insert_after(gather, cast)
    for user, index in consumers:
        user.replace_input_with(index, cast.outputs[0])
    for k, output in enumerate(graph.outputs):
        if output is rows:
            cast.outputs[0].name, cast.outputs[0].shape = rows.name, rows.shape
            cast.outputs[0].dtype = compute
            rows.name, rows.shape = f"{rows.name}.stored", None
            graph.outputs[k] = cast.outputs[0]
    rows.dtype = stored
