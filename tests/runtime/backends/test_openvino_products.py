"""Products in the shapes that OpenVINO computes fastest give the same numbers."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from omnigen2_rt import load
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.openvino import compiled_models as compiled
from omnigen2_rt.runtime.backends.openvino import rewrite_products as openvino_products
from omnigen2_rt.runtime.backends.openvino.backend import OpenVINOBackend
from omnigen2_rt.runtime.backends.openvino.library import openvino_core
from omnigen2_rt.runtime.backends.openvino.rewrite_products import SLICE_COLUMNS, align_products, split_feed_forward
from omnigen2_rt.runtime.backends.openvino.rewrite_reports import Refusal, RewriteReport
from omnigen2_rt.runtime.backends.openvino.rewrites import read_rewritten
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.files.user_cache import user_cache
from omnigen2_rt.runtime.manifest import MANIFEST
from omnigen2_rt.runtime.request import Request

RNG = np.random.default_rng(0)
TOKENS = 7


def weight(columns: int, width: int) -> np.ndarray:
    """(N, K) float32, that bfloat16 holds exactly."""
    return RNG.standard_normal((columns, width), np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)


def constant(values: np.ndarray, kind: str = "f32") -> Any:
    import openvino

    stored = values if kind == "f32" else values.astype(ml_dtypes.bfloat16).view(np.float16)
    return openvino.op.Constant(openvino.Tensor(stored, list(stored.shape), getattr(openvino.Type, kind)), shared_memory=False)


def product(x: Any, stored: Any) -> Any:
    from openvino import opset13 as ops

    cast = stored if stored.get_element_type().to_string() == "f32" else ops.convert(stored, "f32")
    return ops.matmul(x, ops.transpose(cast, np.array([1, 0])), False, False)


def feed_forward(x: Any, gate: Any, up: Any) -> Any:
    """silu(x @ gate) * (x @ up)."""
    from openvino import opset13 as ops

    gated = product(x, gate)
    return ops.multiply(ops.multiply(gated, ops.sigmoid(gated)), product(x, up))


def model(result: Any, *inputs: Any) -> Any:
    import openvino

    return openvino.Model([result], list(inputs))


def tokens(width: int) -> Any:
    from openvino import opset13 as ops

    return ops.parameter([1, -1, width], np.float32)


def kinds(graph: Any) -> list[str]:
    return [node.get_type_name() for node in graph.get_ordered_ops()]


def computed(graph: Any, width: int) -> np.ndarray:
    """A model's output for the same random input every time."""
    values = np.random.default_rng(1).standard_normal((1, TOKENS, width), np.float32)
    output: np.ndarray = openvino_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(values)[0]
    return output


@pytest.mark.parametrize("kind", ["f32", "bf16"])
@pytest.mark.parametrize(("columns", "pieces"), [(2 * SLICE_COLUMNS, 2), (2 * SLICE_COLUMNS + 8, 3)])
def test_feed_forward_in_pieces_gives_the_same(kind: str, columns: int, pieces: int) -> None:
    x = tokens(32)
    gate, up = (constant(weight(columns, 32), kind) for _ in range(2))
    graph = model(feed_forward(x, gate, up), x)
    expected = computed(graph, 32)
    report, shared = split_feed_forward(graph)
    assert report == RewriteReport("split_feed_forward", 1)
    assert [node.get_name() for node in shared] == [gate.get_name(), up.get_name()]
    assert kinds(graph).count("MatMul") == 2 * pieces
    np.testing.assert_allclose(computed(graph, 32), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_feed_forward_in_pieces_reads_the_same_memory(kind: str) -> None:
    x = tokens(32)
    gate, up = (constant(weight(2 * SLICE_COLUMNS, 32), kind) for _ in range(2))
    graph = model(feed_forward(x, gate, up), x)
    split_feed_forward(graph)
    starts = {node.data.ctypes.data for node in graph.get_ordered_ops() if node.get_type_name() == "Constant"}
    for whole in (gate, up):
        first = whole.data.ctypes.data
        assert {first, first + whole.data.nbytes // 2} <= starts


def test_feed_forward_that_looks_different_stays_and_says_why() -> None:
    from openvino import opset13 as ops

    x, other = tokens(32), tokens(32)
    one, narrow, gate, up = (constant(weight(columns, 32)) for columns in (1, SLICE_COLUMNS, 1024, 1024))
    a, b = product(x, gate), product(x, up)
    for value, name in ((x, "x"), (other, "other"), (a, "a"), (b, "b")):
        value.set_friendly_name(name)
    refused = {
        "more than 512 columns; found 512": feed_forward(x, narrow, narrow),
        "equal columns of gate and up projection; found 1024 and 1": feed_forward(x, gate, one),
        "a gate and an up projection of one input; found x and other": ops.multiply(
            ops.multiply(a, ops.sigmoid(a)), product(other, up)
        ),
        "a sigmoid of the gate; found one of b": ops.multiply(ops.multiply(a, ops.sigmoid(b)), b),
        "a MatMul; found Parameter": ops.multiply(ops.multiply(a, ops.sigmoid(a)), ops.parameter([1, -1, 1024], np.float32)),
    }
    for reason, end in refused.items():
        end.set_friendly_name("end")
        parameters = [node for node in (x, other, end.input_value(1).get_node()) if node.get_type_name() == "Parameter"]
        report, shared = split_feed_forward(model(end, *parameters))
        assert report == RewriteReport("split_feed_forward", 0, (Refusal("end", f"looked for {reason}"),))
        assert shared == []


def test_product_that_no_sigmoid_gates_is_no_candidate() -> None:
    from openvino import opset13 as ops

    x = tokens(32)
    a, b = (product(x, constant(weight(1024, 32))) for _ in range(2))
    for end in (ops.multiply(ops.multiply(a, ops.tanh(a)), b), ops.multiply(a, b)):
        assert split_feed_forward(model(end, x)) == (RewriteReport("split_feed_forward", 0), [])


@pytest.mark.parametrize("kind", ["f32", "bf16"])
def test_aligned_products_give_the_same(kind: str) -> None:
    from openvino import opset13 as ops

    x = tokens(40)
    graph = model(ops.concat([product(x, constant(weight(columns, 40), kind)) for columns in (24, 8)], -1), x)
    expected = computed(graph, 40)
    assert align_products(graph) == RewriteReport("align_products", 2)
    assert kinds(graph).count("Pad") == 1
    assert align_products(graph) == RewriteReport("align_products", 0)
    np.testing.assert_allclose(computed(graph, 40), expected, rtol=1e-5, atol=1e-5)


def test_products_that_need_no_alignment_stay() -> None:
    from openvino import opset13 as ops

    x, vector = tokens(64), ops.parameter([-1, 40], np.float32)
    assert align_products(model(product(x, constant(weight(24, 64))), x)) == RewriteReport("align_products", 0)
    few_rows = product(vector, constant(weight(24, 40)))
    few_rows.set_friendly_name("few rows")
    refusal = Refusal("few rows", "looked for an input (B, S, K); found one of shape [?,40]")
    assert align_products(model(few_rows, vector)) == RewriteReport("align_products", 0, (refusal,))


def test_product_with_quantized_weights_is_not_aligned_and_says_why() -> None:
    from openvino import opset13 as ops

    x = tokens(40)
    codes = ops.convert(ops.constant(np.ones((24, 40), np.int8)), "f32")
    scaled = ops.multiply(codes, ops.constant(np.ones((24, 1), np.float32)))
    end = ops.matmul(x, ops.transpose(scaled, np.array([1, 0])), False, False)
    report = align_products(model(end, x))
    assert [refusal.reason for refusal in report.refusals] == ["looked for stored weights; found Multiply"]


def test_products_stay_where_the_copies_would_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    x = tokens(40)
    graph = model(product(x, constant(weight(24, 40))), x)
    monkeypatch.setattr(openvino_products, "LARGEST_COPY_BYTES", 2 * 24 * 64 - 1)
    reason = "padded weights would take 0.003072 MB, the limit is 0.003071 MB"
    assert align_products(graph) == RewriteReport("align_products", 0, (Refusal("", reason),))
    monkeypatch.setattr(openvino_products, "LARGEST_COPY_BYTES", 2 * 24 * 64)
    assert align_products(graph).rewritten == 1


@pytest.fixture
def narrow_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines of 64 values, so that config A's transformer, with rows of 96 values, is rewritten too."""
    monkeypatch.setattr(openvino_products, "SLICE_COLUMNS", 64)
    monkeypatch.setattr(openvino_products, "ALIGNED_VALUES", 64)


SIZES = {"batch": 1, "text_tokens": 3, "reference_tokens": 0, "image_tokens": 4, "joint_tokens": 7}
SIZES |= {"latent_height": 4, "latent_width": 4}


@pytest.mark.usefixtures("narrow_lines")
@pytest.mark.parametrize("graphs", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["latent_embedder", "transformer"])
def test_rewritten_graphs_of_a_bundle_give_the_same(bundles: dict[str, Path], name: str, graphs: str) -> None:
    bundle = Bundle.open(bundles["A"])
    backend = open_backend(bundle, "openvino", "fp32", threads=1)
    rng = np.random.default_rng(0)
    feeds = {}
    for each, tensor in bundle.graph(name, graphs).inputs.items():
        shape = [size if isinstance(size, int) else SIZES[size] for size in tensor.shape]
        feeds[each] = backend.to_device(rng.standard_normal(shape, np.float32), tensor.dtype)
    outputs = []
    for rewrites in (False, True):
        graph = openvino_core().read_model(bundles["A"] / f"{name}.{graphs}.inlined.onnx")
        layers = kinds(graph).count("ScaledDotProductAttention")
        if rewrites:
            assert align_products(graph).rewritten == 6 * layers
            report, shared = split_feed_forward(graph)
            assert len(shared) == 2 * report.rewritten == 2 * layers > 0
        request = openvino_core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        for each, values in feeds.items():
            request.set_tensor(each, values)
        request.infer()
        outputs.append(backend.to_host(request.get_output_tensor()))
    np.testing.assert_allclose(outputs[1], outputs[0], atol=2e-5 if graphs == "fp32" else 2e-2, rtol=1e-4)


def rewritten(bundle: Bundle, name: str, precision: str, limit: int | None = None) -> dict[str, int]:
    """The number of places by rewrite, in a component that is opened."""
    backend = open_backend(bundle, "openvino", precision, threads=2, memory_limit_bytes=limit)
    assert isinstance(backend, OpenVINOBackend)
    backend.open(name)
    return {report.name: report.rewritten for report in backend.rewrites[name]}


@pytest.mark.usefixtures("narrow_lines")
@pytest.mark.parametrize("name", ["context_refiner", *[entry.name for entry in COMPONENTS if entry.picture_rows]])
def test_only_products_of_picture_rows_are_reshaped_and_only_in_bf16(storeless_bundle: Bundle, name: str) -> None:
    plain = rewritten(storeless_bundle, name, "fp32")
    limited = rewritten(storeless_bundle, name, "bf16", 1 << 40)
    free = rewritten(storeless_bundle, name, "bf16")
    always = {"rotate_by_products", "take_products_apart", "keep_stored_weights"}
    assert plain.keys() == always
    if name == "context_refiner":
        assert limited.keys() == free.keys() == always
    else:
        assert limited.keys() == always | {"split_feed_forward"}
        layers = free["rotate_by_products"] // 2
        assert limited["split_feed_forward"] == free["split_feed_forward"] == layers > 0
        assert free["align_products"] == 6 * layers
        source = read_rewritten(storeless_bundle, storeless_bundle.graph(name, "fp32"), "bf16", pads=True)
        assert len(source.shared) == 2 * layers


@pytest.mark.usefixtures("narrow_lines")
def test_rewritten_picture_is_the_same_from_disk_and_near_the_exported_one(bundle: Bundle) -> None:
    request = Request(prompt="a red cube", height_px=64, width_px=64, steps=2)
    latents = []
    for as_exported in (False, False, True):
        if as_exported:
            graphs = tuple(replace(graph, picture_rows=False) for graph in bundle.manifest.graphs)
            (bundle.path / MANIFEST).write_text(replace(bundle.manifest, graphs=graphs).to_json(), encoding="utf-8")
            shutil.rmtree(user_cache().folder / compiled.FOLDER)
        with load(bundle.path, backend="openvino", precision="bf16", threads=2) as pipeline:
            latents.append(pipeline.generate(request).latents)
    np.testing.assert_array_equal(latents[0], latents[1])
    assert np.linalg.norm(latents[0] - latents[2]) < 3e-2 * np.linalg.norm(latents[2])  # sums in another order, in bf16
