"""Rewrites a graph: its Linears read rounded weights, through standard operators that every runtime knows.

    looks for   MatMul(x, Transpose(weight)), Gemm(x, weight, transB=1); a Cast may follow the weight
    puts there  MatMul(x', DequantizeLinear(codes, scales[, zero points]))

x' is x where only the weight is rounded, and DequantizeLinear(QuantizeLinear(x)) where the inputs are too, after a Mul where
they are smoothed. Linears that read the same rounded x become one MatMul and a Split; in the graph without functions, which
OpenVINO reads, `split_products` makes them a MatMul each again: there the Split only costs copies. Where the block doesn't divide
the inputs, x' is padded with zeros: the operator's specification allows a shorter last block, and OpenVINO 2026.4 doesn't.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ...runtime.files.safetensors_header import TensorLocation
from .groups import Group
from .linears import Linear

CODES = {8: ir.DataType.INT8, 4: ir.DataType.UINT4}
SPLIT = ".joined.split"
"""The end of a Split's name that divides a joined product."""


def rewrite(model: ir.Model, groups: Sequence[Group], locations: Mapping[str, TensorLocation], bundle: Path) -> None:
    """Put the rounded weights into the graph. locations: of the groups' `new_tensors`, inside the folder `bundle`."""
    store = partial(_stored, model.graph, locations, bundle)
    for group in groups:
        value = _prepared_input(model.graph, group, store)
        for product in group.products:
            _replace(model.graph, group, product, value, store)
    passes.RemoveUnusedNodesPass()(model)
    _drop_unread(model.graph)


def _drop_unread(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs:
            del graph.initializers[name]


Store = Callable[[str, ir.DataType, tuple[int, ...]], ir.Value]
"""Makes the initializer of a stored tensor: name, type, shape."""


def _prepared_input(graph: ir.Graph, group: Group, store: Store) -> ir.Value:
    """x'; its nodes are put before the group's first product."""
    first, name = group.linears[0].node, group.name
    value = first.inputs[0]
    assert value is not None
    nodes: list[ir.Node] = []
    if group.padding:
        ends = _constant(graph, f"{name}.padding", np.array([0, group.padding]))
        nodes.append(ir.node("Pad", [value, ends, None, _constant(graph, f"{name}.axis", np.array([-1]))]))
    if group.divisor is not None:
        nodes.append(ir.node("Mul", [value, store(f"{name}.smooth", ir.DataType.FLOAT, group.divisor.shape)]))
    if group.scale is not None:
        scale = _constant(graph, f"{name}.input_scale", np.array(group.scale, np.float32))
        zero = _constant(graph, f"{name}.input_zero", np.array(0, np.int8))
        before = nodes[-1].outputs[0] if nodes else value
        nodes.append(ir.node("QuantizeLinear", [before, scale, zero]))
        nodes.append(ir.node("DequantizeLinear", [nodes[-1].outputs[0], scale, zero]))
    for node in nodes:
        node.name = node.outputs[0].name = f"{name}.{node.op_type.lower()}_input"
    graph.insert_before(first, nodes)
    return nodes[-1].outputs[0] if nodes else value


def _replace(graph: ir.Graph, group: Group, linears: Sequence[Linear], value: ir.Value, store: Store) -> None:
    name, shape = linears[0].name, group.scales_shape(linears)
    codes = CODES[group.storage.bits]
    reads = [
        store(f"{name}.codes", codes, group.codes_shape(linears)),
        store(f"{name}.scales", ir.DataType.FLOAT, shape),
    ]
    if group.storage.bits == 4:
        reads.append(store(f"{name}.zeros", codes, shape))
    attributes = {"axis": 1} if group.block is None else {"axis": 0, "block_size": group.block}
    weight = ir.node("DequantizeLinear", reads, attributes=attributes, name=f"{name}.dequantize")
    weight.outputs[0].name = f"{name}.dequantized"
    product = ir.node("MatMul", [value, weight.outputs[0]], name=f"{name}.product")
    product.outputs[0].name = f"{name}.outputs"
    graph.insert_before(linears[0].node, [weight, product])
    for linear, new in zip(linears, _split(graph, linears, product), strict=True):
        old = linear.node.outputs[0]
        new.name, new.shape, new.type = old.name, old.shape, old.type
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(linear.node, safe=True)


def _split(graph: ir.Graph, linears: Sequence[Linear], product: ir.Node) -> Sequence[ir.Value]:
    """Each Linear's part of a product's outputs."""
    if len(linears) == 1:
        return product.outputs
    name = linears[0].name
    sizes = _constant(graph, f"{name}.sizes", np.array([linear.weight.shape[0] for linear in linears]))
    reads = [product.outputs[0], sizes]
    split = ir.node("Split", reads, attributes={"axis": -1}, num_outputs=len(linears), name=f"{name}{SPLIT}")
    graph.insert_before(linears[0].node, split)
    return split.outputs


def split_products(model: ir.Model) -> None:
    """Replace every joined product with one for each Linear, on its columns of the joined weight.

    OpenVINO (2026.4) folds a weight's scales into a product, but not through a Split; the folded product is faster
    (`benchmarks/transformer_ways.py`). It slices the weight when it compiles.
    """
    graph = model.graph
    for split in [node for node in graph if node.name is not None and node.name.endswith(SPLIT)]:
        product = split.inputs[0].producer() if split.inputs[0] is not None else None
        assert product is not None and product.inputs[1] is not None
        weight, sizes = product.inputs[1].producer(), split.inputs[1]
        assert weight is not None and sizes is not None and sizes.const_value is not None
        start = 0
        for old, width in zip(list(split.outputs), map(int, sizes.const_value.numpy()), strict=True):
            assert old.name is not None
            reads = [_columns(graph, split, value, old.name, start, start + width) for value in weight.inputs]
            part = ir.node("DequantizeLinear", reads, attributes={"axis": 1}, name=f"{old.name}.dequantize")
            node = ir.node("MatMul", [product.inputs[0], part.outputs[0]], name=f"{old.name}.product")
            graph.insert_before(split, [part, node])
            new = node.outputs[0]
            new.name, new.shape, new.type = old.name, old.shape, old.type
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            start += width
        graph.remove([split, product, weight], safe=True)
    _drop_unread(graph)


def _columns(graph: ir.Graph, before: ir.Node, value: ir.Value | None, name: str, start: int, stop: int) -> ir.Value:
    """One Linear's columns of a stored tensor, whose last axis is the outputs."""
    assert value is not None and value.name is not None
    label = f"{name}.{value.name.rpartition('.')[2]}"
    ends = {"from": start, "to": stop, "axis": -1}
    bounds = [_constant(graph, f"{label}.{key}", np.array([end])) for key, end in ends.items()]
    node = ir.node("Slice", [value, *bounds], name=label)
    node.outputs[0].name = f"{label}.part"
    graph.insert_before(before, node)
    return node.outputs[0]


def _stored(
    graph: ir.Graph,
    locations: Mapping[str, TensorLocation],
    bundle: Path,
    name: str,
    dtype: ir.DataType,
    shape: tuple[int, ...],
) -> ir.Value:
    place = locations[name]
    file = place.path.relative_to(bundle).as_posix()
    tensor = ir.ExternalTensor(file, place.offset, place.nbytes, dtype, shape=ir.Shape(shape), name=name, base_dir=bundle)
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype), const_value=tensor)
    graph.initializers[name] = value
    return value


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A small initializer, inside the graph's own file."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers[name] = value
    return value
