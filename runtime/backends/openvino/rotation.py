"""One rewrite of OpenVINO's model before it is compiled: how queries and keys are rotated.

OpenVINO's front end turns RotaryEmbedding of interleaved pairs into transposes around a rotation of two halves, and its CPU
plugin fuses that rotation into a RoPE node. What 2026.4 exports of such a node lacks the tables' width, so that the model
computes something else when it is read again. As a product with a matrix it is not fused, survives, and needs no transposes. So
are the tables' columns repeated. Both matrices hold one 1 or -1 a column, so that the products are exact in every type.

    looks for   x = Transpose(heads); halves = VariadicSplit(halved(x));
                paired(Concat(first * cos - second * sin, second * cos + first * sin))
    puts there  Transpose(heads * repeated(cos) + MatMul(heads, swap) * repeated(sin))

It gives the same numbers, up to the order of sums, and takes a little less time (`benchmarks/transformer_ways.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .nodes import replace, same

HALVING = ("Reshape", "Transpose", "Reshape")
"""The nodes that put the first of all pairs before the second of all pairs; the same three put them back."""
HEADS_FIRST = [0, 2, 1, 3]
"""From (B, S, H, D) to (B, H, S, D)."""


class _Rotation(NamedTuple):
    """heads: (B, S, H, D), what is rotated; cos and sin: tables (B, 1, S, D / 2); end: the node of the rotated (B, H, S, D)."""

    heads: Any
    cos: Any
    sin: Any
    end: Any


def rotate_by_products(model: Any) -> int:
    """Rewrite a model's rotations in place; returns how many there were. One that looks different stays as it is."""
    from openvino import opset13 as ops

    found = [rotation for node in model.get_ordered_ops() if (rotation := _rotation(node)) is not None]

    def repeated(table: Any) -> Any:
        """(B, S, 1, D), every column twice. OpenVINO itself sees that all layers make the same."""
        twice = np.eye(table.get_partial_shape()[-1].get_length(), dtype=np.float32).repeat(2, axis=1)
        return ops.matmul(ops.transpose(table, np.array(HEADS_FIRST)), ops.constant(twice), False, False)

    for heads, cos, sin, end in found:
        swap = ops.constant(_signed_swap(heads.get_partial_shape()[-1].get_length()))
        turned = ops.matmul(heads, swap, False, False)
        rotated = ops.add(ops.multiply(heads, repeated(cos)), ops.multiply(turned, repeated(sin)))
        replace(end, ops.transpose(rotated, np.array(HEADS_FIRST)))
    if found:
        model.validate_nodes_and_infer_types()
    return len(found)


def _heads_of(value: Any) -> Any:
    """What was transposed from (B, S, H, D) to this, or None."""
    node = value.get_node()
    if node.get_type_name() != "Transpose":
        return None
    order = node.input_value(1).get_node()
    is_it = order.get_type_name() == "Constant" and order.get_data().tolist() == HEADS_FIRST
    return node.input_value(0) if is_it else None


def _signed_swap(width: int) -> np.ndarray:
    """(width, width) float32: x @ it is x with each pair (a, b) replaced by (-b, a)."""
    swap = np.zeros((width, width), np.float32)
    first = np.arange(0, width, 2)
    swap[first + 1, first], swap[first, first + 1] = -1, 1
    return swap


def _rotation(split: Any) -> _Rotation | None:
    """The rotation whose halves this node makes; None where it makes none."""
    if split.get_type_name() != "VariadicSplit" or split.get_output_size() != 2:
        return None
    sums = [user for half in split.outputs() for factor in _users(half) for user in _users(factor.output(0))]
    joined = [user for part in sums if part.get_type_name() == "Add" for user in _users(part.output(0))]
    if not joined or joined[0].get_type_name() != "Concat" or joined[0].get_input_size() != 2:
        return None
    real, imaginary = (joined[0].input_value(k).get_node() for k in range(2))
    cos, sin = (_factor(part, split.output(0)) for part in (real, imaginary))
    again = _factor(imaginary, split.output(1))
    if cos is None or sin is None or again is None or not same(cos, again):
        return None
    before, after = _before(split), _after(joined[0])
    if _kinds(before) != HALVING or _kinds(after) != HALVING:
        return None
    heads = _heads_of(before[0].input_value(0))
    if heads is None or heads.get_partial_shape()[-1].is_dynamic or heads.get_element_type().to_string() != "f32":
        return None
    if any(len(table.get_partial_shape()) != 4 or table.get_partial_shape()[-1].is_dynamic for table in (cos, sin)):
        return None
    return _Rotation(heads, cos, sin, after[-1])


def _before(node: Any) -> list[Any]:
    """The three nodes that lead to a node's first input, in the order in which they run; fewer where there are no more."""
    found: list[Any] = []
    while len(found) < len(HALVING) and node.get_input_size():
        node = node.input_value(0).get_node()
        found.insert(0, node)
    return found


def _after(node: Any) -> list[Any]:
    """The three nodes that follow a node, as far as each is read by one other alone."""
    found: list[Any] = []
    while len(found) < len(HALVING) and len(users := _users(node.output(0))) == 1:
        node = users[0]
        found.append(node)
    return found


def _kinds(nodes: Sequence[Any]) -> tuple[str, ...]:
    return tuple(node.get_type_name() for node in nodes)


def _users(output: Any) -> list[Any]:
    return [target.get_node() for target in output.get_target_inputs()]


def _factor(addition: Any, half: Any) -> Any:
    """What `half` is multiplied with in one of the two terms of a sum, or None."""
    for term in addition.input_values():
        product = term.get_node()
        if product.get_type_name() != "Multiply":
            continue
        for k in range(2):
            if same(product.input_value(k), half):
                return product.input_value(1 - k)
    return None
