"""Two rewrites of OpenVINO's model before it is compiled in bfloat16: products in the shapes that its kernels are quick at.

Rows are aligned first, so that the pieces of a feed-forward share what was padded.

`split_feed_forward`: a feed-forward's columns are made a few hundred at a time, so that each piece is gated while it is still in
the cache. The pieces read the rows of the weights where they lie; nothing is copied.

    looks for   silu(x @ gate) * (x @ up), as Multiply(Multiply(a, Sigmoid(a)), b)
    puts there  Concat(silu(x @ gate[:, :512]) * (x @ up[:, :512]), ...)

`align_products`: where a row begins in the middle of a cache line, AMX loads two lines at a time. Zeros behind each row, in x and
in a copy of the weights, make every row begin with one.

    looks for   x @ weight, where x has rows of n * 32 + r values
    puts there  Pad(x) @ padded weight

Both give the same numbers, up to the order of sums: where rows have 720 values, to the bit. `benchmarks/transformer_ways.py` has
what they save.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from .nodes import LAST_TWO_SWAPPED, replace, same, transposed

SLICE_COLUMNS = 512
ALIGNED_VALUES = 32
"""A cache line holds so many in bfloat16."""
LARGEST_COPY_BYTES = 200_000_000
"""OpenVINO keeps the weights it was given beside its own copy, so padded ones take memory twice. Larger graphs do without:
12 layers of width 720 need 143 MB, an embedder of the published model alone 275 MB."""


def split_feed_forward(model: Any) -> list[Any]:
    """Rewrite a model's gated feed-forwards in place. One that looks different stays as it is.

    Returns the constants that the new products share their memory with: they must outlive the model and what is compiled from it.
    """
    from openvino import opset13 as ops

    shared = []
    for gated in model.get_ordered_ops():
        products = _gate_and_up(gated)
        if products is None:
            continue
        gate, up = (_weight(product) for product in products)
        columns = gate.shape[0]
        if columns <= SLICE_COLUMNS or up.shape[0] != columns:
            continue
        x = products[0].input_value(0)
        pieces = []
        for first in range(0, columns, SLICE_COLUMNS):
            a, b = (_multiply(x, _rows(weight, first, first + SLICE_COLUMNS)) for weight in (gate, up))
            pieces.append(ops.multiply(ops.multiply(a, ops.sigmoid(a)), b))
        replace(gated, ops.concat(pieces, -1))
        shared += [gate, up]
    if shared:
        model.validate_nodes_and_infer_types()
    return shared


def align_products(model: Any) -> int:
    """Pad the products of (B, S, K) with weights where K needs it, in place; returns how many there were.

    The padded weights are rounded to bfloat16. 0 where they would take more than `LARGEST_COPY_BYTES`.
    """
    from openvino import opset13 as ops

    found = [(product, weight) for product in model.get_ordered_ops() if (weight := _misaligned(product)) is not None]
    copied = sum(2 * weight.shape[0] * (weight.shape[1] + _missing(weight.shape[1])) for _, weight in found)
    if not found or copied > LARGEST_COPY_BYTES:
        return 0
    padded: dict[tuple[str, int], Any] = {}
    for product, weight in found:
        x = product.input_value(0)
        missing = _missing(weight.shape[1])
        reads = (x.get_node().get_name(), x.get_index())
        if reads not in padded:
            zero = ops.constant(0, x.get_element_type())
            padded[reads] = ops.pad(x, np.array([0, 0, 0]), np.array([0, 0, missing]), "constant", zero)
        replace(product, _multiply(padded[reads].output(0), _padded(weight, missing)))
    model.validate_nodes_and_infer_types()
    return len(found)


def _gate_and_up(gated: Any) -> tuple[Any, Any] | None:
    """The two products of a gated feed-forward, both of the same x; None where this node doesn't gate one."""
    factors = _inputs(gated) if gated.get_type_name() == "Multiply" else []
    up = next((node for node in factors if _weight(node) is not None), None)
    silu = next((node for node in factors if node.get_type_name() == "Multiply"), None)
    if up is None or silu is None:
        return None
    gate = next((node for node in _inputs(silu) if _weight(node) is not None), None)
    sigmoid = next((node for node in _inputs(silu) if node.get_type_name() == "Sigmoid"), None)
    if gate is None or sigmoid is None or not same(sigmoid.input_value(0), gate.output(0)):
        return None
    return (gate, up) if same(gate.input_value(0), up.input_value(0)) else None


def _misaligned(product: Any) -> Any:
    """The weight of a product that `align_products` is for, or None."""
    weight = _weight(product)
    if weight is None or _missing(weight.shape[1]) == 0:
        return None
    shape = product.input_value(0).get_partial_shape()
    return weight if shape.rank.is_static and len(shape) == 3 else None


def _missing(values: int) -> int:
    return -values % ALIGNED_VALUES


def _weight(product: Any) -> Any:
    """The constant (N, K) that a product reads, transposed and perhaps cast; None where it reads anything else."""
    if product.get_type_name() != "MatMul" or any(product.get_attributes().values()):
        return None
    weight = transposed(product.input_value(1).get_node())
    if weight is not None and weight.get_type_name() == "Convert":
        weight = weight.input_value(0).get_node()
    if weight is None or weight.get_type_name() != "Constant" or len(weight.shape) != 2:
        return None
    return weight if weight.get_element_type().to_string() in ("f32", "f16", "bf16") else None


def _rows(weight: Any, first: int, end: int) -> Any:
    """Some rows of a constant as another one of the same memory."""
    import openvino

    rows = weight.data[first:end]
    return openvino.op.Constant(openvino.Tensor(rows, list(rows.shape), weight.get_element_type()), shared_memory=True)


def _padded(weight: Any, missing: int) -> Any:
    """A copy of a constant (N, K) in bfloat16, with `missing` zeros behind each row. OpenVINO shows bfloat16 as float16."""
    import openvino

    stored: np.ndarray = weight.data
    values = stored.view(ml_dtypes.bfloat16) if weight.get_element_type() == openvino.Type.bf16 else stored
    rows = np.pad(values.astype(ml_dtypes.bfloat16, copy=False), ((0, 0), (0, missing))).view(np.float16)
    return openvino.op.Constant(openvino.Tensor(rows, list(rows.shape), openvino.Type.bf16), shared_memory=False)


def _multiply(x: Any, weight: Any) -> Any:
    """x @ weight.T, as the front end writes it."""
    from openvino import opset13 as ops

    kind = x.get_element_type()
    cast = weight if weight.get_element_type() == kind else ops.convert(weight, kind)
    return ops.matmul(x, ops.transpose(cast, np.array(LAST_TWO_SWAPPED)), False, False)


def _inputs(node: Any) -> list[Any]:
    return [value.get_node() for value in node.input_values()]
