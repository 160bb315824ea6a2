"""A rewrite of OpenVINO's model before it is compiled: the rotation of queries and keys.

OpenVINO's front end turns RotaryEmbedding of interleaved pairs into transposes around a rotation of two halves, and its CPU
plugin fuses that rotation into a RoPE node. Version 2026.4 exports such a node without the tables' width, so that the model
computes something else when it is read again. A product with a matrix is not fused, survives the export, and needs no transposes.
Another product repeats the tables' columns. Both matrices hold one 1 or -1 a column, so the products are exact in every type.

    looks for   x = Transpose(heads); halves = VariadicSplit(halved(x));
                paired(Concat(first * cos - second * sin, second * cos + first * sin))
    puts there  Transpose(heads * repeated(cos) + MatMul(heads, swap) * repeated(sin))

It gives the same numbers, up to the order of sums, and takes a little less time (`benchmarks/transformer_ways.py`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .nodes import inputs, is_same_output, kind, kinds, output_name, readers, replace, transposes_by
from .rewrite_reports import RewriteReport, match_all, require

HALVING = ["Reshape", "Transpose", "Reshape"]
"""The nodes that put the first of all pairs before the second of all pairs; the same three put them back."""
HEADS_FIRST = [0, 2, 1, 3]
"""From (B, S, H, D) to (B, H, S, D)."""


class _Rotation(NamedTuple):
    """One rotation in a model.

    heads: (B, S, H, D), the input.
    cos, sin: tables (B, 1, S, D / 2).
    end: the node that returns the rotated (B, H, S, D).
    """

    heads: Any
    cos: Any
    sin: Any
    end: Any


def rotate_by_products(model: Any) -> RewriteReport:
    """Rewrite a model's rotations in place. A candidate is a VariadicSplit of (B, H, S, D) in two."""
    from openvino import opset13 as ops

    candidates = [node for node in model.get_ordered_ops() if _splits_heads(node)]
    rotations, refusals = match_all(candidates, _rotation)
    for heads, cos, sin, end in rotations:
        swap = ops.constant(_signed_swap(heads.get_partial_shape()[-1].get_length()))
        turned = ops.matmul(heads, swap, False, False)
        rotated = ops.add(ops.multiply(heads, _repeated(cos)), ops.multiply(turned, _repeated(sin)))
        replace(end, ops.transpose(rotated, np.array(HEADS_FIRST)))
    if rotations:
        model.validate_nodes_and_infer_types()
    return RewriteReport("rotate_by_products", len(rotations), refusals)


def _repeated(table: Any) -> Any:
    """(B, S, 1, D), every column twice. OpenVINO itself merges the equal products of all layers."""
    from openvino import opset13 as ops

    twice = np.eye(table.get_partial_shape()[-1].get_length(), dtype=np.float32).repeat(2, axis=1)
    return ops.matmul(ops.transpose(table, np.array(HEADS_FIRST)), ops.constant(twice), False, False)


def _signed_swap(width: int) -> np.ndarray:
    """(width, width) float32: x @ it is x with each pair (a, b) replaced by (-b, a)."""
    swap = np.zeros((width, width), np.float32)
    first = np.arange(0, width, 2)
    swap[first + 1, first], swap[first, first + 1] = -1, 1
    return swap


def _splits_heads(node: Any) -> bool:
    if kind(node) != "VariadicSplit" or node.get_output_size() != 2:
        return False
    rank = node.input_value(0).get_partial_shape().rank
    return bool(rank.is_static and rank.get_length() == len(HEADS_FIRST))


def _rotation(split: Any) -> _Rotation:
    """The rotation of a split's two halves. Raises Mismatch."""
    join = _join(split)
    cos, sin = _tables(split, inputs(join))
    before, after = _before(split), _after(join)
    require(list(map(kind, before)) == HALVING, f"{', '.join(HALVING)} before the split", kinds(before))
    require(list(map(kind, after)) == HALVING, f"{', '.join(HALVING)} after the sums", kinds(after))
    transpose = before[0].input_value(0).get_node()
    require(transposes_by(transpose, HEADS_FIRST), f"heads transposed by {HEADS_FIRST}", kind(transpose))
    heads = transpose.input_value(0)
    element, shape = heads.get_element_type().to_string(), heads.get_partial_shape()
    require(element == "f32" and shape[-1].is_static, "heads in f32 of a fixed width", f"{element} of shape {shape}")
    return _Rotation(heads, cos, sin, after[-1])


def _join(split: Any) -> Any:
    """The Concat of two sums of products of the halves. Raises Mismatch."""
    products = [product for half in split.outputs() for product in readers(half)]
    sums = [node for product in products for node in readers(product.output(0))]
    joins = [node for part in sums if kind(part) == "Add" for node in readers(part.output(0))]
    concats = bool(joins) and kind(joins[0]) == "Concat" and joins[0].get_input_size() == 2
    chain = f"{kinds(products)}, read by {kinds(sums)}, read by {kinds(joins)}"
    require(concats, "products of the halves, read by Add, read by a Concat of two", chain)
    return joins[0]


def _tables(split: Any, sums: list[Any]) -> tuple[Any, Any]:
    """The cosines and sines that the halves are multiplied by. Raises Mismatch."""
    real, imaginary = sums
    first, second = split.outputs()
    cos, sin, cos_again = _factor(real, first), _factor(imaginary, first), _factor(imaginary, second)
    complete = all(factor is not None for factor in (cos, sin, cos_again))
    require(complete, "sums of products of the halves", f"sums of {kinds(inputs(real))} and of {kinds(inputs(imaginary))}")
    require(is_same_output(cos, cos_again), "one table of cosines", f"{output_name(cos)} and {output_name(cos_again)}")
    for table in (cos, sin):
        shape = table.get_partial_shape()
        require(len(shape) == 4 and shape[-1].is_static, "tables of four axes and a fixed width", f"shape {shape}")
    return cos, sin


def _factor(addition: Any, half: Any) -> Any:
    """The other factor of a half in one of the two terms of a sum, or None."""
    for product in inputs(addition):
        if kind(product) != "Multiply":
            continue
        for k in range(2):
            if is_same_output(product.input_value(k), half):
                return product.input_value(1 - k)
    return None


def _before(node: Any) -> list[Any]:
    """The three nodes that lead to a node's first input, in the order in which they run; fewer where the graph begins."""
    nodes: list[Any] = []
    while len(nodes) < len(HALVING) and node.get_input_size():
        node = node.input_value(0).get_node()
        nodes.insert(0, node)
    return nodes


def _after(node: Any) -> list[Any]:
    """The three nodes that follow a node; fewer where one has several readers."""
    nodes: list[Any] = []
    while len(nodes) < len(HALVING) and len(followers := readers(node.output(0))) == 1:
        node = followers[0]
        nodes.append(node)
    return nodes
