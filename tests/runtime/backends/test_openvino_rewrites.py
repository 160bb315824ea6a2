"""Reports of the rewrites of OpenVINO's models: of a whole bundle, and the reasons of refused rotations and casts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.openvino.backend import OpenVINOBackend
from omnigen2_rt.runtime.backends.openvino.rewrite_reports import RewriteReport
from omnigen2_rt.runtime.backends.openvino.rewrite_rope import rotate_by_products
from omnigen2_rt.runtime.backends.openvino.rewrite_weights import keep_stored_weights
from omnigen2_rt.runtime.backends.openvino.rewrites import rewrite_reports
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError

HEADS, WIDTH = 4, 8


def rotation(
    shape: tuple[int, ...] = (1, -1, HEADS, WIDTH), other_cos: bool = False, halved: bool = True, joined: bool = True
) -> Any:
    """A model that rotates interleaved pairs as OpenVINO's front end writes it, or nearly so."""
    import openvino
    from openvino import opset13 as ops

    def moved(value: Any, inner: list[int], order: list[int], outer: list[int]) -> Any:
        apart = ops.reshape(value, np.array([0, 0, 0, *inner]), True)
        return ops.reshape(ops.transpose(apart, np.array(order)), np.array([0, 0, 0, *outer]), True)

    pairs, order = WIDTH // 2, [0, 1, 2, 4, 3]
    heads = ops.parameter(list(shape), np.float32)
    tables = [ops.parameter([1, 1, -1, pairs], np.float32, name=name) for name in ("cos", "sin", "other")]
    cos, sin, other = tables
    x = ops.transpose(heads, np.array([0, 2, 1, 3]))
    x = moved(x, [pairs, 2], order, [WIDTH]) if halved else x
    first, second = ops.variadic_split(x, 3, [pairs, pairs]).outputs()
    real = ops.add(ops.multiply(first, cos), ops.negative(ops.multiply(second, sin)))
    imaginary = ops.add(ops.multiply(second, other if other_cos else cos), ops.multiply(first, sin))
    result = ops.concat([real, imaginary], -1) if joined else ops.add(real, imaginary)
    return openvino.Model([moved(result, [2, -1], order, [-1])], [heads, *tables])


def test_rotation_as_the_front_end_writes_it_is_rewritten() -> None:
    assert rotate_by_products(rotation()) == RewriteReport("rotate_by_products", 1)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"other_cos": True}, "looked for one table of cosines; found cos and other"),
        ({"shape": (1, -1, HEADS, -1)}, r"looked for heads in f32 of a fixed width; found f32 of shape \[1,\?,4,\?\]"),
        ({"halved": False}, "looked for Reshape, Transpose, Reshape before the split; found .*Transpose"),
        ({"joined": False}, "looked for products of the halves, read by Add, read by a Concat of two; found .*Add, Add"),
    ],
)
def test_rotation_that_looks_different_stays_and_says_why(changed: dict[str, Any], reason: str) -> None:
    report = rotate_by_products(rotation(**changed))
    assert report.rewritten == 0 and len(report.refusals) == 1
    assert report.refusals[0].node.startswith("VariadicSplit")
    assert re.match(reason, report.refusals[0].reason)


def test_split_of_three_axes_is_no_candidate_for_a_rotation() -> None:
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([1, -1, WIDTH], np.float32)
    halves = ops.variadic_split(x, 2, [WIDTH // 2, WIDTH // 2]).outputs()
    assert rotate_by_products(openvino.Model([ops.concat([*halves], -1)], [x])) == RewriteReport("rotate_by_products", 0)


def test_cast_that_something_else_reads_stays_and_says_why() -> None:
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([1, WIDTH], np.float32)
    stored = ops.constant(np.ones((WIDTH, WIDTH), np.float16))
    cast = ops.convert(stored, "f32")
    cast.set_friendly_name("cast")
    model = openvino.Model([ops.matmul(x, cast, False, False), ops.relu(cast)], [x])
    report = keep_stored_weights(model)
    assert report.rewritten == 0
    assert [refusal.node for refusal in report.refusals] == ["cast"]
    assert report.refusals[0].reason.startswith("looked for a cast that MatMul alone reads; found ")
    assert "Relu" in report.refusals[0].reason


def test_reports_of_a_bundle_are_those_of_its_compiled_components(bundle: Bundle) -> None:
    reports = rewrite_reports(bundle, "bf16", "fp32", pads=True)
    backend = open_backend(bundle, "openvino", "bf16", threads=2)
    assert isinstance(backend, OpenVINOBackend)
    for component in ("latent_embedder", "lm_head"):
        backend.open(component)
        assert backend.rewrites[component] == reports[component]
    assert list(backend.rewrites) == ["latent_embedder", "lm_head"]
    counts = {"rotate_by_products": 0, "take_products_apart": 0, "keep_stored_weights": 1}
    assert reports["lm_head"] == tuple(RewriteReport(name, count) for name, count in counts.items())
    feed_forwards = next(report for report in reports["latent_embedder"] if report.name == "split_feed_forward")
    assert {refusal.reason for refusal in feed_forwards.refusals} == {"looked for more than 512 columns; found 384"}


def test_reports_of_a_graph_that_cannot_be_read_give_one_line(bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = Bundle(tmp_path, Bundle.open(bundles["A"]).manifest)
    with pytest.raises(BackendError, match="OpenVINO can't open .*onnx: "):
        rewrite_reports(bundle, "fp32", "fp32", pads=True)
