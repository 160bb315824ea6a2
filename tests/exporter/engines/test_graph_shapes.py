"""Inferred shapes: every size of every exported graph is known, and equals ONNX Runtime's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.components import COMPONENTS, Component
from omnigen2_rt.exporter.engines.graph_shapes import load_graph, tensor_types
from omnigen2_rt.exporter.engines.options import Limits
from omnigen2_rt.exporter.engines.profiles import engine_profiles
from omnigen2_rt.runtime.bundle import Bundle
from tests.exporting import GOLDENS


def unknown_sizes(model: onnx.ModelProto) -> list[str]:
    shapes = tensor_types(model).shapes
    names = [name for node in model.graph.node for name in node.output if name]
    return [name for name in names if any(isinstance(size, str) for size in shapes.get(name, ("?",)))]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_shapes_of_every_component_are_numbers_at_every_profile(bundles: dict[str, Path], component: Component) -> None:
    bundle = Bundle.open(bundles["A"])
    graph = bundle.graph(component.name, "bf16")
    for profile in engine_profiles(graph, bundle.manifest, Limits()):
        for file in filter(None, (graph.file, graph.inlined)):
            assert unknown_sizes(load_graph(bundle.path / file, profile.largest_shapes)) == []


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_shapes_of_every_component_equal_those_of_onnx_runtime(
    bundles: dict[str, Path], component: Component
) -> None:
    bundle, checkpoint = Bundle.open(bundles["A"]), Checkpoint.open(GOLDENS / "A" / "checkpoint")
    file = bundle.path / bundle.graph(component.name, "fp32").file
    feeds = component.sample(checkpoint.config_of(component))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    outputs = dict(zip(names, session.run(names, feeds), strict=True))
    shapes = tensor_types(load_graph(file, {name: array.shape for name, array in feeds.items()})).shapes
    assert {name: shapes[name] for name in names} == {name: array.shape for name, array in outputs.items()}


def test_shapes_pass_a_group_norm_and_a_computed_size(tmp_path: Path) -> None:
    """onnx's own inference follows neither the norm's output nor half of a size through a reshaped scalar."""
    half = helper.make_tensor("two", TensorProto.INT64, [], [2])
    flat = helper.make_tensor("flat", TensorProto.INT64, [1], [-1])
    gains = [helper.make_tensor(name, TensorProto.FLOAT, [4], [1.0] * 4) for name in ("scale", "bias")]
    nodes = [
        helper.make_node("GroupNormalization", ["x", "scale", "bias"], ["normed"], num_groups=2),
        helper.make_node("Shape", ["x"], ["width"], start=2, end=3),
        helper.make_node("Squeeze", ["width"], ["scalar"]),
        helper.make_node("Div", ["scalar", "two"], ["halved"]),
        helper.make_node("Reshape", ["halved", "flat"], ["halves"]),
        helper.make_node("Concat", ["flat", "halves"], ["shape"], axis=0),
        helper.make_node("Reshape", ["normed", "shape"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 4, "W"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["R", "H"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [half, flat, *gains])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "g.onnx")
    model = load_graph(tmp_path / "g.onnx", {"x": (3, 4, 10)})
    assert tensor_types(model).shapes["normed"] == (3, 4, 10)
    assert tensor_types(model).shapes["y"] == (24, 5)
    assert [node.op_type for node in model.graph.node].count("GroupNormalization") == 1, "the graph itself is unchanged"
    dynamic = tensor_types(load_graph(tmp_path / "g.onnx"))
    assert dynamic.shapes["normed"] == ("B", 4, "W")
    assert dynamic.constants >= {"two", "flat"}
    assert np.prod([size for size in dynamic.shapes["scale"] if isinstance(size, int)]) == 4
