"""The ONNX function on ONNX Runtime, plain and inlined, and the node that torch's exporter writes."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from omnigen2_rt.plugins.omni_rope import DOMAIN, OP_TYPE, PLUGIN_ATTRIBUTES, VERSION
from omnigen2_rt.plugins.omni_rope.definition import omni_rope
from omnigen2_rt.plugins.omni_rope.function import OPSET, omni_rope_function, omni_rope_function_proto
from omnigen2_rt.plugins.omni_rope.torch_export import emit
from tests.plugins.cases import EPSILON, Case, Inputs, inputs

ONNX_TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
TOLERANCE = {"fp32": 2e-6, "fp16": 2.0**-9}


def model(case: Case) -> onnx.ModelProto:
    """A graph of one OmniRope node with dynamic batch, tokens and heads."""
    width = case.width
    kind, weight_kind = ONNX_TYPES[case.dtype], ONNX_TYPES[case.weight_dtype]
    value = helper.make_tensor_value_info
    node = helper.make_node(
        OP_TYPE, ["x", "weight", "cos", "sin"], ["y"], domain=DOMAIN, epsilon=EPSILON, **PLUGIN_ATTRIBUTES
    )
    graph = helper.make_graph(
        [node],
        "one_node",
        [
            value("x", kind, ["B", "S", "H", width]),
            value("weight", weight_kind, [width]),
            value("cos", TensorProto.FLOAT, ["S", width // 2]),
            value("sin", TensorProto.FLOAT, ["S", width // 2]),
        ],
        [value("y", kind, ["B", "H", "S", width])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(
        graph, functions=[omni_rope_function_proto()], opset_imports=opsets, ir_version=onnx.IR_VERSION_2024_3_25
    )


def assert_equals_the_definition(graph: onnx.ModelProto, case: Case, sample: Inputs) -> None:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    arrays = (sample.x, sample.weight, sample.cos, sample.sin)
    (rotated,) = session.run(None, {name: array for name, array in zip(names, arrays, strict=True)})
    expected = omni_rope(sample.x, sample.weight, sample.cos, sample.sin, EPSILON)
    assert rotated.dtype == expected.dtype
    tolerance = TOLERANCE[case.dtype]
    np.testing.assert_allclose(rotated.astype(np.float32), expected.astype(np.float32), rtol=tolerance, atol=tolerance)


CASES = [
    Case(batch, 5, 3, width, dtype=dtype, weight_dtype=weight)
    for batch in (1, 2)
    for width in (12, 120)
    for dtype, weight in (("fp32", "fp32"), ("fp16", "fp16"), ("fp16", "fp32"))
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_function_on_onnxruntime_equals_definition(case: Case) -> None:
    assert_equals_the_definition(model(case), case, inputs(case))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_function_inlined_equals_definition(case: Case) -> None:
    """The graph for a runtime without functions."""
    inlined = onnx.inliner.inline_local_functions(model(case))
    assert not inlined.functions
    assert OP_TYPE not in {node.op_type for node in inlined.graph.node}
    assert_equals_the_definition(inlined, case, inputs(case))


@pytest.mark.parametrize("dtype", ONNX_TYPES)
def test_function_passes_the_full_check(dtype: str) -> None:
    onnx.checker.check_model(model(Case(1, 5, 3, 12, dtype=dtype, weight_dtype=dtype)), full_check=True)


def test_function_keeps_the_type_of_x() -> None:
    inlined = onnx.inliner.inline_local_functions(model(Case(1, 5, 3, 12, dtype="bf16", weight_dtype="bf16")))
    inferred = onnx.shape_inference.infer_shapes(inlined, strict_mode=True)
    assert inferred.graph.output[0].type.tensor_type.elem_type == TensorProto.BFLOAT16


def test_function_names_the_operator() -> None:
    assert omni_rope_function().identifier() == (DOMAIN, OP_TYPE, "")


class OneAttention(torch.nn.Module):
    """The exporter's case: a fixed head width, with dynamic batch and tokens."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        return emit(x, self.weight, cos, sin, EPSILON)


def export(sample: Inputs) -> ir.Model:
    tensors = tuple(torch.from_numpy(array) for array in (sample.x, sample.cos, sample.sin))
    batch, tokens = torch.export.Dim("B"), torch.export.Dim("S")
    shapes = ({0: batch, 1: tokens}, {0: tokens}, {0: tokens})
    module = OneAttention(torch.from_numpy(sample.weight)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about its own code
        program = torch.onnx.export(
            module, tensors, dynamo=True, opset_version=OPSET, dynamic_shapes=shapes, verbose=False
        )
    assert program is not None
    return program.model


def test_emit_writes_one_node_that_runs_with_the_function() -> None:
    sample = inputs(Case(2, 5, 3, 12))
    graph = export(sample)
    (node,) = graph.graph
    assert (node.domain, node.op_type) == (DOMAIN, OP_TYPE)
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    assert attributes == {"epsilon": pytest.approx(EPSILON), **PLUGIN_ATTRIBUTES}
    assert [str(size) for size in node.outputs[0].shape or ()] == ["B", "3", "S", "12"]

    function = omni_rope_function()
    graph.functions[function.identifier()] = function
    session = onnxruntime.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    other = inputs(Case(1, 7, 3, 12))
    names = [value.name for value in session.get_inputs()]
    (rotated,) = session.run(None, dict(zip(names, (other.x, other.cos, other.sin), strict=True)))
    expected = omni_rope(other.x, sample.weight, other.cos, other.sin, EPSILON)
    np.testing.assert_allclose(rotated, expected, rtol=TOLERANCE["fp32"], atol=TOLERANCE["fp32"])
