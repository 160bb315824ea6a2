"""One rewrite of OpenVINO's model before it is compiled: rotary embeddings by tables of a head's full width.

OpenVINO's front end turns RotaryEmbedding into a rotation of two halves by tables of half the width, and its CPU plugin fuses
that into a RoPE node. What 2026.4 exports of such a node lacks the tables' width, so that the model computes something else
when it is read again. Spelled with full tables the rotation is not fused, takes the same time, and survives.

    looks for   halves = VariadicSplit(x); Concat(first * cos - second * sin, second * cos + first * sin)
    puts there  x * Concat(cos, cos) + Concat(-second, first) * Concat(sin, sin)
"""

from __future__ import annotations

from typing import Any


def rotate_by_full_tables(model: Any) -> int:
    """Rewrite a model's rotations in place; returns how many there were. One that looks different stays as it is."""
    from openvino import opset13 as ops

    found = [(split, *parts) for split in model.get_ordered_ops() if (parts := _parts(split)) is not None]
    for split, joined, cos, sin in found:
        consumers = list(joined.output(0).get_target_inputs())
        turned = ops.concat([ops.negative(split.output(1)), split.output(0)], -1)
        full_cos, full_sin = (ops.concat([table, table], -1) for table in (cos, sin))
        rotated = ops.add(ops.multiply(split.input_value(0), full_cos), ops.multiply(turned, full_sin))
        for consumer in consumers:
            consumer.replace_source_output(rotated.output(0))
    if found:
        model.validate_nodes_and_infer_types()
    return len(found)


def _parts(split: Any) -> tuple[Any, Any, Any] | None:
    """The concatenation at a rotation's end, and its cos and sin; None where a node doesn't begin a rotation."""
    if split.get_type_name() != "VariadicSplit" or split.get_output_size() != 2:
        return None
    sums = [user for half in split.outputs() for factor in _users(half) for user in _users(factor.output(0))]
    joined = [user for part in sums if part.get_type_name() == "Add" for user in _users(part.output(0))]
    if not joined or joined[0].get_type_name() != "Concat" or joined[0].get_input_size() != 2:
        return None
    real, imaginary = (joined[0].input_value(k).get_node() for k in range(2))
    cos, sin = (_factor(part, split.output(0)) for part in (real, imaginary))
    again = _factor(imaginary, split.output(1))
    if cos is None or sin is None or again is None or not _same(cos, again):
        return None
    return joined[0], cos, sin


def _users(output: Any) -> list[Any]:
    return [target.get_node() for target in output.get_target_inputs()]


def _factor(addition: Any, half: Any) -> Any:
    """What `half` is multiplied with in one of the two terms of a sum, or None."""
    for term in addition.input_values():
        product = term.get_node()
        if product.get_type_name() != "Multiply":
            continue
        for k in range(2):
            if _same(product.input_value(k), half):
                return product.input_value(1 - k)
    return None


def _same(one: Any, other: Any) -> bool:
    return (one.get_node().get_name(), one.get_index()) == (other.get_node().get_name(), other.get_index())
