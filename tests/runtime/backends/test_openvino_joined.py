"""The rewrite that takes joined products of int8 weights apart."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.runtime.backends.openvino.library import openvino_core
from omnigen2_rt.runtime.backends.openvino.rewrite_joined import take_products_apart
from omnigen2_rt.runtime.backends.openvino.rewrite_reports import RewriteReport

INPUTS, WIDTHS = 24, [16, 8, 8]
RNG = np.random.default_rng(0)
CODES = RNG.integers(-127, 128, (INPUTS, sum(WIDTHS))).astype(np.int8)
SCALES = RNG.random((1, sum(WIDTHS))).astype(np.float32) / 100


def joined(axis: int = -1, scales: np.ndarray = SCALES, codes: np.ndarray = CODES, tokens: int = -1) -> Any:
    """A model of one joined product, as OpenVINO's front end writes it."""
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([1, tokens, INPUTS], np.float32, name="x")
    weight = ops.multiply(ops.convert(ops.constant(codes), np.float32), ops.constant(scales))
    split = ops.variadic_split(ops.matmul(x, weight, False, False), np.int64(axis), np.array(WIDTHS))
    return openvino.Model([ops.result(output) for output in split.outputs()], [x], "joined")


@pytest.mark.parametrize("axis", [-1, 2])
def test_products_come_apart_and_give_the_same(axis: int) -> None:
    x = RNG.standard_normal((1, 5, INPUTS)).astype(np.float32)
    model = joined(axis)
    assert take_products_apart(model) == RewriteReport("take_products_apart", 1)
    kinds = [node.get_type_name() for node in model.get_ordered_ops()]
    assert kinds.count("MatMul") == len(WIDTHS) and "VariadicSplit" not in kinds
    outputs = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})
    expected = np.split(x @ (CODES * SCALES), np.cumsum(WIDTHS)[:-1], axis=-1)
    assert len(outputs) == len(expected)
    for index, part in enumerate(expected):
        assert np.allclose(outputs[index], part, rtol=1e-4, atol=1e-4 * np.abs(part).max())


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"scales": SCALES[0, :1]}, r"looked for scales of shape \[1,32\]; found \[1\]"),
        ({"codes": CODES.astype(np.float16)}, "looked for stored int8 codes; found Constant of f16"),
        ({"axis": 1, "tokens": sum(WIDTHS)}, "looked for a split of the last axis; found axis 1"),
    ],
)
def test_other_products_stay_joined_and_say_why(changed: dict[str, Any], reason: str) -> None:
    report = take_products_apart(joined(**changed))
    assert report.rewritten == 0
    (refusal,) = report.refusals
    assert re.search(reason, refusal.reason), refusal
