"""A table of what TensorRT's ONNX parser supports, and a check of graphs against it before the long build.

Sources, all from onnx/onnx-tensorrt:
- operators, types and limits: docs/operators.md of 10.15 (commit fa5aa9f), the oldest release that we support;
- the limits that 11 adds: onnxOpCheckers.cpp, onnxOpImporters.cpp and importerUtils.cpp (commit 5ab48c5);
- how a node finds its plugin: ModelImporter.cpp (commit 5ab48c5).
The table has the stricter limit where the two differ. None of it was tried on TensorRT.

The table lists the operators that our exporter emits, not all that the parser supports. Any other operator is a finding, so that
it is looked up before it ships. Needs no TensorRT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto

from ...plugins.omni_rope import DOMAIN, OP_TYPE, PLUGIN_ATTRIBUTES
from .graph_shapes import Types, load_graph, tensor_types

OPSETS = range(9, 25)
EXTERNAL_DATA_KEYS = frozenset({"location", "offset", "length", "checksum"})
FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16})
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
ALL = NUMBERS | {TensorProto.BOOL}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A node or weight that the parser would refuse, the problem, and advice."""

    node: str
    op_type: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.op_type} {self.node}: {self.problem}; {self.advice}"


Problems = Iterator[tuple[str, str]]
"""Pairs of problem and advice."""
Check = Callable[[NodeProto, Types], Problems]


def _attributes(node: NodeProto) -> dict[str, object]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def _rank(node: NodeProto, index: int, types: Types) -> int | None:
    """The number of axes of an input, or None where the node lacks it or its shape isn't known."""
    is_known = len(node.input) > index and node.input[index] in types.shapes
    return len(types.shapes[node.input[index]]) if is_known else None


def _constant_axes(node: NodeProto, types: Types) -> Problems:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in types.constants:
        yield "axes is computed", "make axes an initializer"


def _attention(node: NodeProto, types: Types) -> Problems:
    attributes = _attributes(node)
    if any(node.input[4:]):
        yield "it takes past keys and values", "join them with Concat before the node"
    if any(node.output[1:]):
        yield "it has more than one output", "keep only the first"
    for name in ("softcap", "softmax_precision", "qk_matmul_output_mode"):
        if attributes.get(name):
            yield f"{name} is not supported", "leave it out"
    if len(node.input) > 3 and node.input[3] and attributes.get("is_causal"):
        yield "it has a mask and is causal as well", "fold the causal triangle into the mask"
    for index, name in enumerate(("Q", "K", "V", "its mask")):
        if _rank(node, index, types) not in (None, 4):
            yield f"{name} has {_rank(node, index, types)} axes", "make it (B, H, S, Dh), the mask (B, H, Sq, Sk)"


def _cast(node: NodeProto, types: Types) -> Problems:
    to = _attributes(node).get("to")
    if to not in ALL:
        yield f"it casts to {TensorProto.DataType.Name(to)}", "TensorRT computes in floats, int32, int64 and bool"


def _resize(node: NodeProto, types: Types) -> Problems:
    attributes = _attributes(node)
    allowed = {
        "coordinate_transformation_mode": (
            b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric", b"align_corners",
        ),
        "mode": (b"nearest", b"linear"),
        "nearest_mode": (b"floor", b"ceil", b"round_prefer_floor", b"round_prefer_ceil"),
        "keep_aspect_ratio_policy": (b"stretch",),
    }  # fmt: skip
    if attributes.get("antialias"):
        yield "antialiasing is not supported", "resize without it"
    for name, values in allowed.items():
        if name in attributes and attributes[name] not in values:
            yield f"{name}={attributes[name]!r}", f"use one of {', '.join(value.decode() for value in values)}"


def _one_output(node: NodeProto, types: Types) -> Problems:
    if any(node.output[1:]):
        yield "only its first output is supported", "compute the others in nodes of their own"


def _three_axes(node: NodeProto, types: Types) -> Problems:
    rank = _rank(node, 0, types)
    if rank is not None and rank < 3:
        yield f"its input has {rank} axes", "reshape it to 3 or more"


def _rotary(node: NodeProto, types: Types) -> Problems:
    if len(node.input) > 3 and node.input[3]:
        return
    for index in (1, 2):
        if _rank(node, index, types) not in (None, 3):
            yield f"{node.input[index]} has {_rank(node, index, types)} axes", "expand tables to (B, S, Dh/2)"


# fmt: off
SUPPORTED: dict[str, frozenset[int]] = {
    **dict.fromkeys((
        "Attention", "Conv", "Cos", "Gelu", "Gemm", "GroupNormalization", "LayerNormalization", "MatMul", "Resize",
        "RMSNormalization", "RotaryEmbedding", "Sigmoid", "Sin", "Softmax", "Sqrt", "Tanh",
    ), FLOATS),
    **dict.fromkeys((
        "Abs", "Add", "Clip", "Div", "Mul", "Neg", "Pad", "ReduceMean", "Sub",
    ), NUMBERS),
    **dict.fromkeys((
        "Concat", "Constant", "Expand", "Gather", "Identity", "Reshape", "Shape", "Slice", "Split", "Squeeze",
        "Transpose", "Unsqueeze", "Where",
    ), ALL),
    "Cast": ALL | {TensorProto.UINT8},
    "CastLike": ALL | {TensorProto.UINT8},
}
# fmt: on
"""The element types of each supported operator's data inputs."""
CHECKS: dict[str, Check] = {
    "Attention": _attention,
    "Cast": _cast,
    "GroupNormalization": _three_axes,
    "LayerNormalization": _one_output,
    "ReduceMean": _constant_axes,
    "Resize": _resize,
    "RotaryEmbedding": _rotary,
    "Squeeze": _constant_axes,
    "Unsqueeze": _constant_axes,
}
DATA_INPUTS = {"Attention": 3, "CastLike": 1, "Expand": 1, "Gather": 1, "Resize": 1, "Reshape": 1, "RotaryEmbedding": 3}
"""The number of leading inputs that an operator's types apply to; all inputs where it isn't listed."""


def check_graph(path: Path, *, rope: str) -> list[Finding]:
    """Everything in a graph file that TensorRT's parser would refuse. Reads no weights. rope: "plugin" or "native"."""
    model = load_graph(path)
    types = tensor_types(model)
    findings = [*_check_opset(model), *_check_external_data(model)]
    findings += [finding for node in model.graph.node for finding in check_node(node, types, rope=rope)]
    return [*findings, *_check_functions(model)]


def _check_opset(model: ModelProto) -> Iterator[Finding]:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        advice = f"export with {OPSETS.start} to {OPSETS.stop - 1}"
        yield Finding(node=model.graph.name, op_type="opset", problem=f"it is {opset}", advice=advice)


def _check_external_data(model: ModelProto) -> Iterator[Finding]:
    for weight in model.graph.initializer:
        entries = {entry.key: entry.value for entry in weight.external_data}
        unknown = sorted(entries.keys() - EXTERNAL_DATA_KEYS)
        if unknown or ".." in Path(entries.get("location", "")).parts:
            keys = f"its external data has the unknown keys {', '.join(unknown)}"
            problem = keys if unknown else "its file is outside the graph's folder"
            yield Finding(node=weight.name, op_type="weight", problem=problem, advice="export the bundle again")


def _check_functions(model: ModelProto) -> Iterator[Finding]:
    for function in model.functions:
        for node in function.node:
            if node.op_type == OP_TYPE and node.domain == DOMAIN:
                yield Finding(
                    node=node.name or function.name,
                    op_type=OP_TYPE,
                    problem=f"it is inside the function {function.name}",
                    advice="plugins bind in the main graph only: inline that function",
                )


def check_node(node: NodeProto, types: Types, *, rope: str) -> list[Finding]:
    """Everything in one node that the parser would refuse."""
    label = node.name or (node.output[0] if node.output else "?")
    return [
        Finding(node=label, op_type=node.op_type, problem=problem, advice=advice)
        for problem, advice in _problems(node, types, rope)
    ]


def _problems(node: NodeProto, types: Types, rope: str) -> Problems:
    if node.op_type == OP_TYPE and node.domain == DOMAIN:
        if rope == "native":
            yield "the graph still holds our operator", "use the inlined twin"
        else:
            yield from _plugin_binding(node)
            yield from _plugin_heads(node, types)
    elif node.domain not in ("", "ai.onnx"):
        yield f"its domain is {node.domain!r}", "the parser ignores domains and looks by op type: inline it"
    elif node.op_type not in SUPPORTED:
        yield "it is not in the table of supported operators", "look it up in onnx-tensorrt's operators.md"
    else:
        yield from _unsupported_inputs(node, types)
        if node.op_type in CHECKS:
            yield from CHECKS[node.op_type](node, types)


def _unsupported_inputs(node: NodeProto, types: Types) -> Problems:
    for name in node.input[: DATA_INPUTS.get(node.op_type, len(node.input))]:
        dtype = types.dtypes.get(name)
        if dtype is not None and dtype not in SUPPORTED[node.op_type] | _index_types(node, name):
            yield f"its input {name} is {TensorProto.DataType.Name(dtype)}", "cast it to a supported type"
    for name in node.input:
        if len(types.shapes.get(name, ())) > 8:
            yield f"its input {name} has more than 8 axes", "TensorRT supports 8 at most"


def _index_types(node: NodeProto, name: str) -> frozenset[int]:
    """Further types of an input that isn't data but axes, sizes or a condition."""
    data = node.op_type in DATA_INPUTS or (bool(node.input) and name == node.input[0])
    return frozenset() if data else frozenset({TensorProto.INT64, TensorProto.BOOL})


def _plugin_binding(node: NodeProto) -> Problems:
    attributes = {entry.name: entry for entry in node.attribute}
    for name, expected in PLUGIN_ATTRIBUTES.items():
        value = onnx.helper.get_attribute_value(attributes[name]) if name in attributes else None
        if (value.decode() if isinstance(value, bytes) else value) != expected:
            advice = "export the bundle again: the parser finds the plugin by this attribute"
            yield f"its attribute {name} is {value!r}, not {expected!r}", advice
    if "epsilon" not in attributes or attributes["epsilon"].type != AttributeProto.FLOAT:
        yield "its epsilon is not a float attribute", "export the bundle again"


def _plugin_heads(node: NodeProto, types: Types) -> Problems:
    """The number of heads and their width are constants of the compiled kernel, so the graph must state both."""
    shape = types.shapes.get(node.input[0]) if node.input else None
    if shape is not None and any(not isinstance(size, int) for size in shape[2:]):
        yield f"its input has the shape {shape}", "state the number of heads and their width where the heads are split"
