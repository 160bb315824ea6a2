"""Rewrites a graph: its Linears read rounded weights, through standard operators that every runtime knows.

    looks for   MatMul(x, Transpose(weight)), Gemm(x, weight, transB=1); a Cast may follow the weight
    puts there  MatMul(x', DequantizeLinear(codes, scales))

x' is x where only the weight is rounded, and DequantizeLinear(QuantizeLinear(x)) where the inputs are too, after a Mul where
they are smoothed. TensorRT takes codes only as they are stored: nothing may stand between them and their DequantizeLinear, and
they have no zero points. Nor may a Transpose follow: where ONNX Runtime folds no weights, as under a memory limit, that took 50
times as long. Linears with int8 codes that read the same x' become one MatMul and a Split. Where the block or the alignment
doesn't divide the inputs, x' is padded with zeros: the operator's specification allows a shorter last block, and OpenVINO 2026.4
doesn't.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ...runtime.dtypes import PRECISIONS
from ...runtime.errors import ExportError
from ...runtime.files.safetensors_header import TensorLocation
from .groups import Group
from .linears import Linear, find_linears

CODES = {"int8": ir.DataType.INT8, "int4": ir.DataType.INT4, "fp8": ir.DataType.FLOAT8E4M3FN}
SPLIT = ".joined.split"
"""The end of a Split's name that divides a joined product."""


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """The groups' `new_tensors` as they lie in the folder `bundle`, and the precision of the graph that reads them."""

    locations: Mapping[str, TensorLocation]
    bundle: Path
    precision: str

    @property
    def compute(self) -> ir.DataType:
        """The type that the graph computes in."""
        return ir.DataType(PRECISIONS[self.precision].onnx)

    def tensor(self, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.ExternalTensor:
        """A tensor of the file. Codes of 4 bits are stored in pairs, and so in another shape."""
        place = self.locations[name]
        file = place.path.relative_to(self.bundle).as_posix()
        return ir.ExternalTensor(
            file, place.offset, place.nbytes, dtype, shape=ir.Shape(shape), name=name, base_dir=self.bundle
        )


def rewrite(model: ir.Model, groups: Sequence[Group], weights: StoredWeights) -> None:
    """Put the rounded weights into the graph.

    groups: made from the same component's graph in any precision. Raises ExportError where this graph has other Linears.
    """
    for group in _in_this_graph(model, groups, weights.precision):
        value = _prepared_input(model.graph, group, weights)
        for linears in group.products:
            _replace(model.graph, group, linears, value, weights)
    passes.RemoveUnusedNodesPass()(model)
    _drop_unread(model.graph)


def _in_this_graph(model: ir.Model, groups: Sequence[Group], precision: str) -> list[Group]:
    """The groups with the Linears of this graph."""
    found = {tuple(linear.name for linear in linears): linears for linears in find_linears(model)}
    names = [tuple(linear.name for linear in group.linears) for group in groups]
    if found.keys() != set(names):
        other = min(found.keys() ^ set(names))[0]
        raise ExportError(f"the graphs of one component differ at {other!r} in {precision}: export the bundle again")
    return [replace(group, linears=found[name]) for group, name in zip(groups, names, strict=True)]


def _drop_unread(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and value not in graph.outputs:
            del graph.initializers[name]


def _prepared_input(graph: ir.Graph, group: Group, weights: StoredWeights) -> ir.Value:
    """x'; its nodes are put before the group's first product."""
    first, name, compute = group.linears[0].node, group.name, weights.compute
    value = first.inputs[0]
    assert value is not None
    nodes: list[ir.Node] = []

    def add(kind: str, *others: ir.Value | None) -> None:
        node = ir.node(kind, [nodes[-1].outputs[0] if nodes else value, *others])
        node.name = node.outputs[0].name = f"{name}.{kind.lower()}_input"
        nodes.append(node)

    if group.divisor is not None:
        factors = weights.tensor(f"{name}.smooth.{weights.precision}", compute, group.divisor.shape)
        add("Mul", _initializer(graph, f"{name}.smooth", factors))
    if group.padding:
        ends = _constant(graph, f"{name}.padding", np.array([0, group.padding]))
        add("Pad", ends, None, _constant(graph, f"{name}.axis", np.array([-1])))
    if group.scale is not None:
        codes = CODES[group.storage.codes]
        scale = _constant(graph, f"{name}.input_scale", np.array(group.scale, compute.numpy()))
        zero = _constant(graph, f"{name}.input_zero", np.array(0, codes.numpy()))
        add("QuantizeLinear", scale, zero)
        add("DequantizeLinear", scale, zero)
    graph.insert_before(first, nodes)
    return nodes[-1].outputs[0] if nodes else value


def _replace(graph: ir.Graph, group: Group, linears: Sequence[Linear], value: ir.Value, weights: StoredWeights) -> None:
    name = linears[0].name
    codes = weights.tensor(f"{name}.codes", CODES[group.storage.codes], group.codes_shape(linears))
    scales = weights.tensor(f"{name}.scales.{weights.precision}", weights.compute, group.scales_shape(linears))
    reads = [_initializer(graph, f"{name}.codes", codes), _initializer(graph, f"{name}.scales", scales)]
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


def _constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """A small initializer, inside the graph's own file."""
    return _initializer(graph, name, ir.tensor(array, name=name))


def _initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers[name] = value
    return value
