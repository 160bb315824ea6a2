"""A rewrite of OpenVINO's model before it is compiled: products that a bundle joins for ONNX Runtime come apart again.

OpenVINO (2026.4) folds a weight's scales into a product, but not through a split; the folded products are faster
(`benchmarks/transformer_ways.py`). It slices the weights when it compiles.

    looks for   VariadicSplit(x @ (Convert(codes) * scales)), with int8 codes (K, N) and a scale for each column
    puts there  x @ (Convert(codes[:, :n]) * scales[:, :n]), ...
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .nodes import inputs, kind
from .rewrite_reports import RewriteReport, match_all, require


class _JoinedProduct(NamedTuple):
    """A split product.

    split: the VariadicSplit. x: the output that is multiplied. codes: the stored constant (K, N). scales: an output (1, N).
    widths: the columns of each part.
    """

    split: Any
    x: Any
    codes: Any
    scales: Any
    widths: list[int]


def take_products_apart(model: Any) -> RewriteReport:
    """Rewrite a model's joined products in place. A candidate is a VariadicSplit of a product with scaled weights."""
    candidates = filter(_splits_a_scaled_product, model.get_ordered_ops())
    matches, refusals = match_all(candidates, _joined_product)
    for match in matches:
        _take_apart(match)
    if matches:
        model.validate_nodes_and_infer_types()
    return RewriteReport("take_products_apart", len(matches), refusals)


def _splits_a_scaled_product(node: Any) -> bool:
    product = inputs(node)[0] if kind(node) == "VariadicSplit" else None
    return product is not None and kind(product) == "MatMul" and kind(inputs(product)[1]) == "Multiply"


def _joined_product(split: Any) -> _JoinedProduct:
    """The product that is split. Raises Mismatch."""
    product, axis, widths = inputs(split)
    weight = inputs(product)[1]
    cast = inputs(weight)[0]
    require(kind(cast) == "Convert", "cast codes", kind(cast))
    codes = inputs(cast)[0]
    element = codes.get_element_type().to_string()
    require(kind(codes) == "Constant" and element == "i8", "stored int8 codes", f"{kind(codes)} of {element}")
    require(len(codes.shape) == 2, "codes (K, N)", f"codes of shape {list(codes.shape)}")
    scales, shape = weight.input_value(1), weight.input_value(1).get_partial_shape()
    columns = codes.shape[1]
    require(str(shape) == f"[1,{columns}]", f"scales of shape [1,{columns}]", shape)
    last = len(split.input_value(0).get_partial_shape()) - 1
    require(kind(axis) == kind(widths) == "Constant", "constant widths", f"{kind(axis)} and {kind(widths)}")
    require(int(axis.data) in (-1, last), "a split of the last axis", f"axis {int(axis.data)}")
    return _JoinedProduct(split, product.input_value(0), codes, scales, [int(width) for width in widths.data])


def _take_apart(match: _JoinedProduct) -> None:
    """Put a product in the place of each part."""
    from openvino import opset13 as ops

    start = 0
    for output, width in zip(match.split.outputs(), match.widths, strict=True):
        bounds = [np.array([value]) for value in (start, start + width, 1, 1)]  # start, stop, step, axis
        codes, scales = ops.slice(match.codes, *bounds), ops.slice(match.scales, *bounds)
        weight = ops.multiply(ops.convert(codes, match.scales.get_element_type()), scales)
        output.replace(ops.matmul(match.x, weight, False, False).output(0))
        start += width
