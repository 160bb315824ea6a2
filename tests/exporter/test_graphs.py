"""The exported graphs: their contents, and equality with the reference at sizes other than those of the export."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.components import COMPONENTS, Component
from omnigen2_rt.exporter.verify.difference import difference
from omnigen2_rt.exporter.verify.torch_backend import TorchBackend
from omnigen2_rt.runtime.backends.ort import OrtBackend
from omnigen2_rt.runtime.bundle import Bundle
from tests.exporting import GOLDENS

SIZES: dict[str, tuple[dict[str, int], ...]] = {
    "token_embedding": ({"batch": 1, "text_tokens": 1}, {"batch": 3, "text_tokens": 17}),
    "language_model": (
        {"batch": 1, "text_tokens": 1, "past_tokens": 0, "total_tokens": 1},
        {"batch": 1, "text_tokens": 13, "past_tokens": 0, "total_tokens": 13},
        {"batch": 2, "text_tokens": 1, "past_tokens": 6, "total_tokens": 7},
    ),
    "lm_head": ({"batch": 1}, {"batch": 5}),
    "vision_encoder": ({"patches": 16, "windows": 1, "window_patches": 16, "image_tokens": 4},),
    "timestep_embedding": ({"steps": 1}, {"steps": 50}),
    "context_refiner": ({"text_tokens": 1}, {"text_tokens": 30}),
    "reference_embedder": (
        {"earlier_tokens": 0, "reference_tokens": 6, "latent_height": 6, "latent_width": 4, "image_tokens": 6},
        {"earlier_tokens": 9, "reference_tokens": 10, "latent_height": 2, "latent_width": 2, "image_tokens": 1},
    ),
    "latent_embedder": (
        {"batch": 1, "latent_height": 2, "latent_width": 2, "image_tokens": 1},
        {"batch": 3, "latent_height": 10, "latent_width": 6, "image_tokens": 15},
    ),
    "transformer": (
        {"batch": 1, "text_tokens": 1, "reference_tokens": 0, "image_tokens": 1, "joint_tokens": 2},
        {"batch": 1, "text_tokens": 20, "reference_tokens": 33, "image_tokens": 15, "joint_tokens": 68},
    ),
    "cache_signal": (
        {"batch": 1, "text_tokens": 1, "reference_tokens": 0, "image_tokens": 1, "joint_tokens": 2},
        {"batch": 3, "text_tokens": 9, "reference_tokens": 4, "image_tokens": 6, "joint_tokens": 19},
    ),
    "blend": ({"batch": 1, "image_tokens": 1}, {"batch": 3, "image_tokens": 15}),
    "velocity_head": (
        {"batch": 1, "latent_height": 2, "latent_width": 2, "image_tokens": 1},
        {"batch": 3, "latent_height": 10, "latent_width": 6, "image_tokens": 15},
    ),
    "vae_encoder": ({"batch": 1, "height_px": 16, "width_px": 16, "latent_height": 2, "latent_width": 2},),
    "vae_decoder": ({"batch": 1, "height_px": 16, "width_px": 48, "latent_height": 2, "latent_width": 6},),
}
CASES = [pytest.param(c, s, id=f"{c.name}-{k}") for c in COMPONENTS for k, s in enumerate(SIZES[c.name])]
GRAPHS = [pytest.param(c, p, id=f"{c.name}-{p}") for c in COMPONENTS for p in ("fp32", "fp16", "bf16")]


@cache
def reference(config: str) -> TorchBackend:
    return TorchBackend(Checkpoint.open(GOLDENS / config / "checkpoint"))


def worst_error(config: str, bundle: Path, precision: str, component: Component, sizes: dict[str, int]) -> float:
    """The largest relative error among the component's outputs."""
    feeds = component.sample(reference(config).checkpoint.config_of(component), seed=3, **sizes)
    engine = OrtBackend(Bundle.open(bundle), "ort-cpu", precision, threads=1)
    expected, actual = (side.open(component.name).run(feeds) for side in (reference(config), engine))
    pairs = [(reference(config).to_host(expected[name]), engine.to_host(actual[name])) for name in expected]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(difference("", "", a, b, 0.0).relative_error for a, b in pairs)


def with_weights_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without external data: onnx.checker refuses hard links, which ours are."""
    checked = onnx.ModelProto.FromString(model.SerializeToString())
    stored = [t for t in checked.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in stored:
        checked.graph.initializer.remove(tensor)
        checked.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return checked


@pytest.mark.parametrize(("component", "sizes"), CASES)
def test_graph_in_fp32_at_other_sizes_equals_reference(
    component: Component, sizes: dict[str, int], bundles: dict[str, Path]
) -> None:
    assert worst_error("A", bundles["A"], "fp32", component, sizes) < 2e-5


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_graph_over_sharded_and_other_types_equals_reference(component: Component, bundles: dict[str, Path]) -> None:
    assert worst_error("B", bundles["B"], "fp32", component, {}) < 2e-5


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_graph_in_fp16_is_within_tolerance(component: Component, bundles: dict[str, Path]) -> None:
    assert worst_error("A", bundles["A"], "fp16", component, {}) < component.tolerance["fp16"]


@pytest.mark.parametrize(("component", "precision"), GRAPHS)
def test_graph_is_valid_and_holds_no_weights(component: Component, precision: str, bundles: dict[str, Path]) -> None:
    path = bundles["A"] / f"{component.name}.{precision}.onnx"
    assert path.stat().st_size < 2**20
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(with_weights_as_inputs(model), full_check=precision == "fp32")
    assert {entry.domain: entry.version for entry in model.opset_import}[""] == 23
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            location = next(entry.value for entry in tensor.external_data if entry.key == "location")
            assert location.endswith(".safetensors") and (bundles["A"] / location).is_file()
        else:
            assert len(tensor.SerializeToString()) < 2048, f"{tensor.name} lies inside the graph"


def test_transformer_graph_uses_fused_attention_and_the_rope_operator(bundles: dict[str, Path]) -> None:
    model = onnx.load(bundles["A"] / "transformer.fp32.onnx", load_external_data=False)
    counts = {kind: sum(node.op_type == kind for node in model.graph.node) for kind in ("Attention", "OmniRope", "Softmax")}
    assert counts == {"Attention": 3, "OmniRope": 6, "Softmax": 0}
    assert [(function.domain, function.name) for function in model.functions] == [("omnigen2", "OmniRope")]


def test_linear_weights_keep_their_stored_layout(bundles: dict[str, Path]) -> None:
    model = onnx.load(bundles["A"] / "velocity_head.fp32.onnx", load_external_data=False)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    assert shapes["norm_out.linear_2.weight"] == (64, 96)


@pytest.mark.parametrize("name", ["context_refiner", "reference_embedder", "latent_embedder", "transformer"])
def test_inlined_twin_has_no_functions_and_equal_outputs(name: str, bundles: dict[str, Path]) -> None:
    twin = bundles["A"] / f"{name}.fp32.inlined.onnx"
    model = onnx.load(twin, load_external_data=False)
    assert not model.functions and {node.domain for node in model.graph.node} == {""}
    component = next(entry for entry in COMPONENTS if entry.name == name)
    feeds = component.sample(reference("A").checkpoint.config_of(component))
    paths = (twin, twin.with_name(f"{name}.fp32.onnx"))
    outputs = [onnxruntime.InferenceSession(str(p), providers=["CPUExecutionProvider"]).run(None, feeds)[0] for p in paths]
    np.testing.assert_allclose(*outputs, atol=1e-5, rtol=0)


def test_weights_of_another_type_are_cast_after_a_gather(bundles: dict[str, Path]) -> None:
    """A cast of the whole vocabulary would double the memory of a prompt."""
    kinds = {}
    for config, precision in (("A", "fp16"), ("A", "bf16"), ("B", "fp32"), ("A", "fp32")):
        model = onnx.load(bundles[config] / f"token_embedding.{precision}.onnx", load_external_data=False)
        nodes = [node.op_type for node in model.graph.node]
        kinds[config, precision] = (model.graph.initializer[0].data_type, nodes)
        assert nodes[0] == "Gather" and set(nodes[1:]) <= {"Cast"}
    assert any("Cast" in nodes for _, nodes in kinds.values())
    assert kinds["A", "fp16"][0] == kinds["A", "bf16"][0] == kinds["A", "fp32"][0]


def test_weights_are_cast_when_their_product_runs(bundles: dict[str, Path], tmp_path: Path) -> None:
    """When casts were not tied to their products, ONNX Runtime ran those of all layers before the first product.

    The full-size transformer, streamed, then held 8.2 GB of float32 weights at once instead of 0.4 GB.
    """
    path = bundles["A"] / "transformer.fp32.onnx"
    options = onnxruntime.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "profile")
    off = {"disabled_optimizers": ["ConstantFolding"]}
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], **off)
    component = next(entry for entry in COMPONENTS if entry.name == "transformer")
    session.run(None, component.sample(reference("A").checkpoint.config_of(component)))
    events = json.loads(Path(session.end_profiling()).read_text())
    runs = sorted((event for event in events if event["name"].endswith("_kernel_time")), key=lambda event: event["ts"])
    waiting, most_waiting, products = 0, 0, 0
    for event in runs:
        waiting += event["name"].endswith(".weight.cast_kernel_time")
        most_waiting = max(most_waiting, waiting)
        if event["args"]["op_name"] in ("MatMul", "FusedMatMul", "Gemm"):
            waiting, products = 0, products + 1
    assert products > 20 and 0 < most_waiting < 5  # a product's own, and those of norms before it


def test_weight_files_in_the_bundle_are_hard_links(bundles: dict[str, Path]) -> None:
    for spec in Bundle.open(bundles["B"]).manifest.files:
        if spec.file.endswith(".safetensors"):
            ours, theirs = bundles["B"] / spec.file, GOLDENS / "B" / "checkpoint" / spec.file
            same_disk = ours.stat().st_dev == theirs.stat().st_dev
            assert not same_disk or ours.stat().st_ino == theirs.stat().st_ino
            assert ours.read_bytes() == theirs.read_bytes()
