"""The table of the parser on every exported graph, and on nodes that it must refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import NodeProto, TensorProto, helper

from omnigen2_rt.exporter.engines.fused_attention import FUSED_WIDTHS, lacks_fused_attention
from omnigen2_rt.exporter.engines.graph_shapes import Types, load_graph, tensor_types
from omnigen2_rt.exporter.engines.parser_support import EXTERNAL_DATA_KEYS, SUPPORTED, check_graph, check_node
from omnigen2_rt.plugins.omni_rope import DOMAIN, OP_TYPE, PLUGIN_ATTRIBUTES
from omnigen2_rt.runtime.bundle import Bundle

NO_TYPES = Types(dtypes={}, shapes={}, constants=frozenset())


def node(op: str, inputs: int = 1, outputs: int = 1, **attributes: Any) -> NodeProto:
    names = [f"i{k}" for k in range(inputs)], [f"o{k}" for k in range(outputs)]
    return helper.make_node(op, *names, name="bad_node", **attributes)


def problems(checked: NodeProto, types: Types = NO_TYPES, rope: str = "plugin") -> list[str]:
    return [str(finding) for finding in check_node(checked, types, rope=rope)]


@pytest.mark.parametrize("rope", ["plugin", "native"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graph_of_every_component_is_supported(bundles: dict[str, Path], precision: str, rope: str) -> None:
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
    findings = check_graph(bundle.path / bundle.graph("transformer", "bf16").file, rope="native")
    assert findings
    assert all("use the inlined twin" in str(finding) for finding in findings)


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (node("Unique"), "not in the table"),
        (node("Resize", antialias=1), "antialiasing"),
        (node("Resize", mode="cubic"), "mode=b'cubic'; use one of nearest, linear"),
        (node("Resize", coordinate_transformation_mode="tf_crop_and_resize"), "use one of half_pixel"),
        (node("Attention", 6), "past keys and values; join them with Concat"),
        (node("Attention", 3, 3), "more than one output"),
        (node("Attention", 3, softcap=1.0), "softcap"),
        (node("Attention", 3, softmax_precision=1), "softmax_precision"),
        (node("Cast", to=TensorProto.DOUBLE), "it casts to DOUBLE"),
        (node("Attention", 4, is_causal=1), "a mask and is causal"),
        (node("LayerNormalization", 2, 3), "only its first output"),
        (node("Squeeze", 2), "axes is computed; make axes an initializer"),
        (node("Conv", domain="com.example"), "'com.example'"),
    ],
)
def test_node_that_the_parser_refuses_is_named_with_advice(refused: NodeProto, message: str) -> None:
    (problem,) = problems(refused)
    assert problem.startswith(f"{refused.op_type} bad_node: ")
    assert message in problem


@pytest.mark.parametrize(
    ("refused", "dtypes", "message"),
    [
        (node("MatMul", 2), {"i0": TensorProto.DOUBLE}, "i0 is DOUBLE"),
        (node("Gemm", 2), {"i0": TensorProto.INT64}, "i0 is INT64"),
        (node("Add", 2), {"i0": TensorProto.BOOL}, "i0 is BOOL"),
        (node("Attention", 4), {"i0": TensorProto.BOOL, "i3": TensorProto.BOOL}, "i0 is BOOL"),
        (node("Reshape", 2), {"i0": TensorProto.UINT8, "i1": TensorProto.INT64}, "i0 is UINT8"),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_node_of_a_wrong_type_is_refused(refused: NodeProto, dtypes: dict[str, int], message: str) -> None:
    (problem,) = problems(refused, Types(dtypes=dtypes, shapes={}, constants=frozenset()))
    assert message in problem


@pytest.mark.parametrize(
    ("refused", "shapes", "message"),
    [
        (node("Attention", 3), {"i0": (1, 5, 32)}, "Q has 3 axes"),
        (node("Attention", 4), {"i3": (5, 5)}, "its mask has 2 axes"),
        (node("RotaryEmbedding", 3), {"i1": (5, 8)}, "i1 has 2 axes; expand tables"),
        (node("GroupNormalization", 3), {"i0": (5, 8)}, "its input has 2 axes"),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_node_of_a_wrong_rank_is_refused(refused: NodeProto, shapes: dict[str, Any], message: str) -> None:
    (problem,) = problems(refused, Types(dtypes={}, shapes=shapes, constants=frozenset()))
    assert message in problem


def test_node_of_nine_axes_is_refused() -> None:
    types = Types(dtypes={}, shapes={"i0": (1,) * 9}, constants=frozenset())
    assert "more than 8 axes" in problems(node("Transpose"), types)[0]


def test_node_of_our_operator_needs_the_plugin_attributes() -> None:
    attributes = {**PLUGIN_ATTRIBUTES, "epsilon": 1e-5}
    assert problems(node(OP_TYPE, 4, domain=DOMAIN, **attributes)) == []
    for name in PLUGIN_ATTRIBUTES:
        fewer = {key: value for key, value in attributes.items() if key != name}
        assert f"its attribute {name} is None" in problems(node(OP_TYPE, 4, domain=DOMAIN, **fewer))[0]


def test_node_of_our_operator_needs_a_fixed_number_of_heads() -> None:
    """The kernel is compiled for it. A graph with a computed number of heads failed only in the build."""
    rope = node(OP_TYPE, 4, domain=DOMAIN, **PLUGIN_ATTRIBUTES, epsilon=1e-5)
    fixed, computed = (
        problems(rope, Types(dtypes={}, shapes={"i0": ("batch", "tokens", heads, 120)}, constants=frozenset()))
        for heads in (21, "unk__0")
    )
    assert fixed == []
    assert len(computed) == 1 and "state the number of heads" in computed[0]


@pytest.mark.parametrize(("opset", "advice"), [(23, []), (8, ["export with 9 to 24"]), (25, ["export with 9 to 24"])])
def test_graph_of_an_unknown_opset_is_refused(tmp_path: Path, opset: int, advice: list[str]) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), tmp_path / "g.onnx")
    assert [finding.advice for finding in check_graph(tmp_path / "g.onnx", rope="native")] == advice


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_graph_refers_to_weights_by_keys_that_the_parser_knows(
    bundles: dict[str, Path], precision: str
) -> None:
    """The parser refuses an unknown key, and a path that leaves the graph's folder."""
    bundle = Bundle.open(bundles["A"])
    keys = set()
    for graph in bundle.manifest.graphs:
        if graph.precision == precision:
            model = onnx.load(bundle.path / graph.file, load_external_data=False)
            keys |= {entry.key for weight in model.graph.initializer for entry in weight.external_data}
    assert {"location", "offset", "length"} <= keys <= EXTERNAL_DATA_KEYS


def test_graph_of_the_vae_states_its_head_width(bundles: dict[str, Path]) -> None:
    """The full model's is 512, without a fused kernel: the first build needs to know it."""
    bundle = Bundle.open(bundles["A"])
    for component in ("vae_encoder", "vae_decoder"):
        model = load_graph(bundle.path / bundle.graph(component, "bf16").file)
        shapes = tensor_types(model).shapes
        widths = [shapes[entry.input[0]][3] for entry in model.graph.node if entry.op_type == "Attention"]
        assert widths == [24]
        assert lacks_fused_attention(model, "bf16") is (24 not in FUSED_WIDTHS)


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
