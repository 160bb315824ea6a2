"""Two rewrites of OpenVINO's model before it is compiled in bfloat16: products in the shapes that its kernels compute fastest.

Rows are aligned first, so that the pieces of a feed-forward share the padded input.

`split_feed_forward`: a feed-forward's columns are computed a few hundred at a time, so that each piece is gated while it is still
in the cache. The pieces read the rows of the weights in place; nothing is copied.

    looks for   silu(x @ gate) * (x @ up), as Multiply(Multiply(a, Sigmoid(a)), b)
    puts there  Concat(silu(x @ gate[:, :512]) * (x @ up[:, :512]), ...)

`align_products`: where a row begins in the middle of a cache line, AMX loads two lines at a time. Zeros behind each row, in x and
in a copy of the weights, let every row begin with one.

    looks for   x @ weight, where x has rows of n * 32 + r values
    puts there  Pad(x) @ padded weight

Both give the same numbers, up to the order of sums: where rows have 720 values, to the bit. `benchmarks/transformer_ways.py` has
what they save.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from ...dtypes import PRECISIONS
from .nodes import LAST_TWO_SWAPPED, inputs, is_same_output, kind, output_name, replace, transposes_by
from .rewrite_reports import Refusal, RewriteReport, match_all, require

SLICE_COLUMNS = 512
ALIGNED_VALUES = 32
"""Values of bfloat16 in a cache line."""
LARGEST_COPY_BYTES = 200_000_000
"""OpenVINO keeps the weights of the model beside its own copy, so padded ones take memory twice. Larger graphs aren't padded:
12 layers of width 720 need 143 MB, an embedder of the published model alone 275 MB."""
STORED = [dtype.openvino for dtype in PRECISIONS.values()]


class _Product(NamedTuple):
    """A product x @ weight.T.

    node: the MatMul.
    weight: its stored constant (N, K).
    """

    node: Any
    weight: Any


class _FeedForward(NamedTuple):
    """A gated feed-forward. end: the node of its result."""

    end: Any
    gate: _Product
    up: _Product


def split_feed_forward(model: Any) -> tuple[RewriteReport, list[Any]]:
    """Rewrite a model's gated feed-forwards in place. A candidate is a Multiply by another one that a Sigmoid gates.

    Also returns the constants whose memory the new products read: they must outlive the model and what is compiled from it.
    """
    from openvino import opset13 as ops

    candidates = [node for node in model.get_ordered_ops() if _gated_factor(node) is not None]
    matches, refusals = match_all(candidates, _feed_forward)
    for end, gate, up in matches:
        x = gate.node.input_value(0)
        pieces = []
        for first in range(0, gate.weight.shape[0], SLICE_COLUMNS):
            a, b = (_multiply(x, _rows(each.weight, first, first + SLICE_COLUMNS)) for each in (gate, up))
            pieces.append(ops.multiply(ops.multiply(a, ops.sigmoid(a)), b))
        replace(end, ops.concat(pieces, -1))
    if matches:
        model.validate_nodes_and_infer_types()
    shared = [each.weight for match in matches for each in (match.gate, match.up)]
    return RewriteReport("split_feed_forward", len(matches), refusals), shared


def align_products(model: Any) -> RewriteReport:
    """Pad the products of (B, S, K) with weights in place. A candidate is a MatMul with transposed weights whose K needs padding.

    The padded weights are rounded to bfloat16. Nothing is padded where they would take more than `LARGEST_COPY_BYTES`.
    """
    candidates = [node for node in model.get_ordered_ops() if _misaligned(node)]
    matches, refusals = match_all(candidates, _product_of_tokens)
    copied = sum(2 * weight.shape[0] * (weight.shape[1] + _missing(weight.shape[1])) for _, weight in matches)
    if copied > LARGEST_COPY_BYTES:
        reason = f"padded weights would take {copied / 1e6:.4g} MB, the limit is {LARGEST_COPY_BYTES / 1e6:.4g} MB"
        return RewriteReport("align_products", 0, (*refusals, Refusal("", reason)))
    _pad(matches)
    if matches:
        model.validate_nodes_and_infer_types()
    return RewriteReport("align_products", len(matches), refusals)


def _pad(products: list[_Product]) -> None:
    """Put padded products in the place of these. Products of one input share its padding."""
    from openvino import opset13 as ops

    padded: dict[tuple[str, int], Any] = {}
    for product, weight in products:
        x = product.input_value(0)
        missing = _missing(weight.shape[1])
        source = (x.get_node().get_name(), x.get_index())
        if source not in padded:
            zero = ops.constant(0, x.get_element_type())
            padded[source] = ops.pad(x, np.array([0, 0, 0]), np.array([0, 0, missing]), "constant", zero)
        replace(product, _multiply(padded[source].output(0), _padded(weight, missing)))


def _gated_factor(node: Any) -> Any:
    """The factor of a Multiply that is a product with a Sigmoid, or None."""
    factors = [factor for factor in inputs(node) if kind(factor) == "Multiply"] if kind(node) == "Multiply" else []
    return next((factor for factor in factors if "Sigmoid" in map(kind, inputs(factor))), None)


def _feed_forward(end: Any) -> _FeedForward:
    """The feed-forward that ends in this Multiply. Raises Mismatch."""
    silu = _gated_factor(end)
    sigmoid = next(node for node in inputs(silu) if kind(node) == "Sigmoid")
    gate, up = _product(_other_input(silu, sigmoid)), _product(_other_input(end, silu))
    gated = sigmoid.input_value(0)
    require(is_same_output(gated, gate.node.output(0)), "a sigmoid of the gate", f"one of {output_name(gated)}")
    x, other = (product.node.input_value(0) for product in (gate, up))
    sources = f"{output_name(x)} and {output_name(other)}"
    require(is_same_output(x, other), "a gate and an up projection of one input", sources)
    columns, up_columns = gate.weight.shape[0], up.weight.shape[0]
    require(columns == up_columns, "equal columns of gate and up projection", f"{columns} and {up_columns}")
    require(columns > SLICE_COLUMNS, f"more than {SLICE_COLUMNS} columns", columns)
    return _FeedForward(end, gate, up)


def _other_input(node: Any, known: Any) -> Any:
    """The input of a node of two that isn't the known one."""
    one, other = inputs(node)
    return other if one.get_name() == known.get_name() else one


def _misaligned(node: Any) -> bool:
    """Whether a node multiplies by a transposed matrix whose rows don't end with a cache line."""
    if kind(node) != "MatMul" or not transposes_by(node.input_value(1).get_node(), LAST_TWO_SWAPPED):
        return False
    width = node.input_value(1).get_partial_shape()[0]
    return bool(width.is_static and _missing(width.get_length()))


def _product_of_tokens(node: Any) -> _Product:
    """The product of (B, S, K) with a stored weight. Raises Mismatch."""
    product = _product(node)
    shape = node.input_value(0).get_partial_shape()
    require(shape.rank.is_static and len(shape) == 3, "an input (B, S, K)", f"one of shape {shape}")
    return product


def _missing(values: int) -> int:
    return -values % ALIGNED_VALUES


def _product(node: Any) -> _Product:
    """The product with a constant (N, K) that is transposed and perhaps cast. Raises Mismatch."""
    require(kind(node) == "MatMul", "a MatMul", kind(node))
    flags = [name for name, is_set in node.get_attributes().items() if is_set]
    require(not flags, "a MatMul without flags", ", ".join(flags))
    transpose = node.input_value(1).get_node()
    require(transposes_by(transpose, LAST_TWO_SWAPPED), "transposed weights", kind(transpose))
    weight = inputs(transpose)[0]
    if kind(weight) == "Convert":
        weight = inputs(weight)[0]
    require(kind(weight) == "Constant", "stored weights", kind(weight))
    element, shape = weight.get_element_type().to_string(), list(weight.shape)
    require(element in STORED and len(shape) == 2, f"a matrix of {', '.join(STORED)}", f"{element} of shape {shape}")
    return _Product(node, weight)


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
    """x @ weight.T, as OpenVINO's front end writes it."""
    from openvino import opset13 as ops

    element = x.get_element_type()
    cast = weight if weight.get_element_type() == element else ops.convert(weight, element)
    return ops.matmul(x, ops.transpose(cast, np.array(LAST_TWO_SWAPPED)), False, False)
