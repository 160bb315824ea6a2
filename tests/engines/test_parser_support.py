"""The parser's table against every exported graph, and against nodes that it must refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from omnigen2_rt.exporter.parser_support import (
    SUPPORTED,
    Types,
    check_graph,
    check_node,
    lacks_fused_attention,
    load_graph,
)
from omnigen2_rt.plugins.omni_rope import DOMAIN, OP_TYPE, PLUGIN_ATTRIBUTES
from omnigen2_rt.runtime.bundle import Bundle

NO_TYPES = Types(dtypes={}, shapes={}, constants=frozenset())


def node(op: str, inputs: int = 1, outputs: int = 1, **attributes: Any) -> NodeProto:
    names = [f"i{k}" for k in range(inputs)], [f"o{k}" for k in range(outputs)]
    return helper.make_node(op, *names, name="bad_node", **attributes)


def problems(given: NodeProto, types: Types = NO_TYPES, rope: str = "plugin") -> list[str]:
    return [str(found) for found in check_node(given, types, rope=rope)]


@pytest.mark.parametrize("rope", ["plugin", "native"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graph_of_every_component_is_taken(bundles: dict[str, Path], precision: str, rope: str) -> None:
    bundle = Bundle.open(bundles["A"])
    for graph in bundle.manifest.graphs:
        if graph.precision == precision:
            file = graph.inlined if rope == "native" and graph.inlined else graph.file
            assert check_graph(bundle.path / file, rope=rope) == [], file


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graph_for_native_rope_holds_only_standard_operators(bundles: dict[str, Path], precision: str) -> None:
    bundle = Bundle.open(bundles["A"])
    for graph in bundle.manifest.graphs:
        if graph.precision == precision:
            model = onnx.load(bundle.path / (graph.inlined or graph.file), load_external_data=False)
            assert not model.functions
            assert {entry.op_type for entry in model.graph.node} <= SUPPORTED.keys()
            assert {entry.domain for entry in model.graph.node} <= {""}


def test_graph_with_our_operator_is_refused_for_native_rope(bundles: dict[str, Path]) -> None:
    bundle = Bundle.open(bundles["A"])
    found = check_graph(bundle.path / bundle.graph("transformer", "bf16").file, rope="native")
    assert found
    assert all("give the inlined twin" in str(finding) for finding in found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (node("Unique"), "not in the table"),
        (node("Resize", antialias=1), "antialiasing"),
        (node("Resize", mode="cubic"), "mode=b'cubic'; use one of nearest, linear"),
        (node("Resize", coordinate_transformation_mode="tf_crop_and_resize"), "use one of half_pixel"),
        (node("Attention", 6), "past keys and values; join them with Concat"),
        (node("Attention", 3, 3), "more than one output"),
        (node("Attention", 3, softcap=1.0), "softcap"),
        (node("Attention", 4, is_causal=1), "a mask and is causal"),
        (node("LayerNormalization", 2, 3), "only its first output"),
        (node("Squeeze", 2), "axes is computed; make axes an initializer"),
        (node("Conv", domain="com.example"), "'com.example'"),
    ],
)
def test_node_that_the_parser_refuses_is_named_with_advice(given: NodeProto, message: str) -> None:
    told = problems(given)
    assert len(told) == 1
    assert told[0].startswith(f"{given.op_type} bad_node: ")
    assert message in told[0]


def test_node_of_a_wrong_type_is_refused() -> None:
    types = Types(dtypes={"i0": TensorProto.DOUBLE}, shapes={}, constants=frozenset())
    assert "i0 is DOUBLE" in problems(node("MatMul", 2), types)[0]


def test_node_of_nine_axes_is_refused() -> None:
    types = Types(dtypes={}, shapes={"i0": (1,) * 9}, constants=frozenset())
    assert "more than 8 axes" in problems(node("Transpose"), types)[0]


def test_node_of_our_operator_needs_the_plugin_attributes() -> None:
    attributes = {**PLUGIN_ATTRIBUTES, "epsilon": 1e-5}
    good = node(OP_TYPE, 4, domain=DOMAIN, **attributes)
    assert problems(good) == []
    for name in PLUGIN_ATTRIBUTES:
        fewer = {key: value for key, value in attributes.items() if key != name}
        assert f"its attribute {name} is None" in problems(node(OP_TYPE, 4, domain=DOMAIN, **fewer))[0]


@pytest.mark.parametrize(
    ("width", "lacks"), [(8, True), (16, False), (100, True), (120, False), (256, False), (512, True)]
)
def test_attention_of_a_head_width_without_fused_kernel_is_known(tmp_path: Path, width: int, lacks: bool) -> None:
    shape = [1, 1, "tokens", width]
    inputs = [helper.make_tensor_value_info(name, TensorProto.BFLOAT16, shape) for name in "qkv"]
    output = helper.make_tensor_value_info("y", TensorProto.BFLOAT16, shape)
    graph = helper.make_graph([helper.make_node("Attention", ["q", "k", "v"], ["y"])], "g", inputs, [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), tmp_path / "g.onnx")
    model = load_graph(tmp_path / "g.onnx")
    assert lacks_fused_attention(model, "bf16") is lacks
    assert lacks_fused_attention(model, "fp32")
