"""The estimate of an engine's memory, on small graphs and on every exported one."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from omnigen2_rt.exporter.components import COMPONENTS, Component
from omnigen2_rt.exporter.engines.memory_estimate import scratch_bytes, tensor_bytes
from omnigen2_rt.exporter.engines.options import Limits
from omnigen2_rt.exporter.engines.profiles import engine_profiles
from omnigen2_rt.runtime.bundle import Bundle
from tests.exporter.engines.small_bundle import HIDDEN, make_bundle

VALUES = 1000
FLOATS = 4 * VALUES


def saved(path: Path, nodes: list[NodeProto], kind: int = TensorProto.FLOAT) -> Path:
    value = [helper.make_tensor_value_info(name, kind, ["N"]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], [helper.make_tensor("flat", TensorProto.INT64, [1], [-1])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), path / "g.onnx")
    return path / "g.onnx"


def estimate(graph: Path) -> int:
    return scratch_bytes(graph, {"x": (VALUES,)}, fused_attention=True)


def test_scratch_is_the_peak_of_live_tensors(tmp_path: Path) -> None:
    """While c is computed, a and b are live as well; afterwards c alone takes less."""
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Tanh", ["c"], ["y"]),
    ]
    assert estimate(saved(tmp_path, nodes)) == 3 * FLOATS


def test_scratch_leaves_out_inputs_outputs_and_views(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["a"]),
        helper.make_node("Reshape", ["a", "flat"], ["view"]),
        helper.make_node("Tanh", ["view"], ["y"]),
    ]
    assert estimate(saved(tmp_path, nodes)) == FLOATS


def test_scratch_counts_in_the_graphs_type(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sigmoid", ["x"], ["a"]), helper.make_node("Tanh", ["a"], ["y"])]
    assert estimate(saved(tmp_path, nodes, TensorProto.BFLOAT16)) == 2 * VALUES


def test_scratch_of_attention_without_a_fused_kernel_holds_its_scores(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    tokens = 4096
    inputs = {"references": (1, 0, HIDDEN), "image_tokens": (1, tokens, HIDDEN)}
    graph = bundle.path / bundle.manifest.graphs[0].file
    fused, decomposed = (scratch_bytes(graph, inputs, fused_attention=kernel) for kernel in (True, False))
    assert decomposed - fused == 2 * 2 * tokens * tokens, "two heads of float16"
    assert fused == 2 * 2 * tokens * HIDDEN, "the transposed heads, and attention's output"


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_scratch_of_every_component_grows_with_the_image(bundles: dict[str, Path], component: Component) -> None:
    bundle = Bundle.open(bundles["A"])
    graph = bundle.graph(component.name, "bf16")
    file = bundle.path / graph.file
    estimates = []
    for size in (256, 512):
        profiles = engine_profiles(graph, bundle.manifest, Limits(max_size_px=size, typical_size_px=size))
        estimates.append(max(scratch_bytes(file, profile.largest_shapes, fused_attention=True) for profile in profiles))
    assert 0 <= estimates[0] <= estimates[1]
    if graph.component in ("transformer", "vae_decoder", "vae_encoder", "latent_embedder", "reference_embedder"):
        assert 2 * estimates[0] < estimates[1] < 5 * estimates[0], "four times the image tokens, with the same text"


def test_tensor_bytes_are_all_inputs_and_outputs(tmp_path: Path) -> None:
    graph = make_bundle(tmp_path / "bundle").manifest.graphs[0]
    sizes = {"batch": 2, "image_tokens": 10, "reference_tokens": 3}
    assert tensor_bytes(graph, sizes) == 2 * HIDDEN * (3 + 2 * 10 + 2 * 10)
