"""What TensorRT's ONNX parser takes, as a table, and what it would refuse in a graph: found before the long build.

Sources, all of onnx/onnx-tensorrt. Operators, types and limits: docs/operators.md of 10.15 (commit fa5aa9f), the oldest release
that is supported here. What 11 adds to the limits: its static checks and importers (onnxOpCheckers.cpp, onnxOpImporters.cpp,
importerUtils.cpp; commit 5ab48c5). How a node finds its plugin: ModelImporter.cpp of that commit. Where the two differ, the
stricter one stands here. None of it was tried.

The table holds what our exporter can emit, not all that the parser knows; what it lacks is reported, so a new operator has to be
looked up before it ships. No TensorRT is needed to use it.
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
FUSED_WIDTHS = range(16, 257, 8)
"""Head widths for which a fused attention kernel may exist."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that the parser would refuse: where, what, and what to do."""

    node: str
    op_type: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.op_type} {self.node}: {self.problem}; {self.advice}"


Check = Callable[[NodeProto, Types], Iterator[tuple[str, str]]]


def _nothing(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    yield from ()


def _attributes(node: NodeProto) -> dict[str, object]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def _rank(node: NodeProto, index: int, types: Types) -> int | None:
    """The number of axes of an input, where it is given and known."""
    given = len(node.input) > index and node.input[index] in types.shapes
    return len(types.shapes[node.input[index]]) if given else None


def _constant_axes(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    if len(node.input) > 1 and node.input[1] and node.input[1] not in types.constants:
        yield "axes is computed", "make axes an initializer"


def _attention(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    given = _attributes(node)
    if any(node.input[4:]):
        yield "it takes past keys and values", "join them with Concat before the node"
    if any(node.output[1:]):
        yield "it has more than one output", "keep only the first"
    for name in ("softcap", "softmax_precision", "qk_matmul_output_mode"):
        if given.get(name):
            yield f"{name} is not taken", "leave it out"
    if len(node.input) > 3 and node.input[3] and given.get("is_causal"):
        yield "it has a mask and is causal as well", "fold the triangle into the mask"
    for index, name in enumerate(("Q", "K", "V", "its mask")):
        if _rank(node, index, types) not in (None, 4):
            yield f"{name} has {_rank(node, index, types)} axes", "make it (B, H, S, Dh), the mask (B, H, Sq, Sk)"


def _cast(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    to = _attributes(node).get("to")
    if to not in ALL:
        yield f"it casts to {TensorProto.DataType.Name(to)}", "TensorRT computes in floats, int32, int64 and bool"


def _resize(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    given = _attributes(node)
    allowed = {
        "coordinate_transformation_mode": (
            b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric", b"align_corners",
        ),
        "mode": (b"nearest", b"linear"),
        "nearest_mode": (b"floor", b"ceil", b"round_prefer_floor", b"round_prefer_ceil"),
        "keep_aspect_ratio_policy": (b"stretch",),
    }  # fmt: skip
    if given.get("antialias"):
        yield "antialiasing is not taken", "resize without it"
    for name, values in allowed.items():
        if name in given and given[name] not in values:
            yield f"{name}={given[name]!r}", f"use one of {', '.join(value.decode() for value in values)}"


def _one_output(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    if any(node.output[1:]):
        yield "only its first output is taken", "compute the others apart"


def _three_axes(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    rank = _rank(node, 0, types)
    if rank is not None and rank < 3:
        yield f"its input has {rank} axes", "give it 3 or more"


def _rotary(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    if len(node.input) > 3 and node.input[3]:
        return
    for index in (1, 2):
        if _rank(node, index, types) not in (None, 3):
            yield f"{node.input[index]} has {_rank(node, index, types)} axes", "expand tables to (B, S, Dh/2)"


SUPPORTED: dict[str, tuple[frozenset[int], Check]] = {
    "Abs": (NUMBERS, _nothing),
    "Add": (NUMBERS, _nothing),
    "Attention": (FLOATS, _attention),
    "Cast": (ALL | {TensorProto.UINT8}, _cast),
    "CastLike": (ALL | {TensorProto.UINT8}, _nothing),
    "Clip": (NUMBERS, _nothing),
    "Concat": (ALL, _nothing),
    "Constant": (ALL, _nothing),
    "Conv": (FLOATS, _nothing),
    "Cos": (FLOATS, _nothing),
    "Div": (NUMBERS, _nothing),
    "Expand": (ALL, _nothing),
    "Gather": (ALL, _nothing),
    "Gelu": (FLOATS, _nothing),
    "Gemm": (FLOATS, _nothing),
    "GroupNormalization": (FLOATS, _three_axes),
    "Identity": (ALL, _nothing),
    "LayerNormalization": (FLOATS, _one_output),
    "MatMul": (FLOATS, _nothing),
    "Mul": (NUMBERS, _nothing),
    "Neg": (NUMBERS, _nothing),
    "Pad": (NUMBERS, _nothing),
    "ReduceMean": (NUMBERS, _constant_axes),
    "Reshape": (ALL, _nothing),
    "Resize": (FLOATS, _resize),
    "RMSNormalization": (FLOATS, _nothing),
    "RotaryEmbedding": (FLOATS, _rotary),
    "Shape": (ALL, _nothing),
    "Sigmoid": (FLOATS, _nothing),
    "Sin": (FLOATS, _nothing),
    "Slice": (ALL, _nothing),
    "Softmax": (FLOATS, _nothing),
    "Split": (ALL, _nothing),
    "Sqrt": (FLOATS, _nothing),
    "Squeeze": (ALL, _constant_axes),
    "Sub": (NUMBERS, _nothing),
    "Tanh": (FLOATS, _nothing),
    "Transpose": (ALL, _nothing),
    "Unsqueeze": (ALL, _constant_axes),
    "Where": (ALL, _nothing),
}
DATA_INPUTS = {"Attention": 3, "CastLike": 1, "Expand": 1, "Gather": 1, "Resize": 1, "Reshape": 1, "RotaryEmbedding": 3}
"""How many leading inputs the types are about; all of them where an operator isn't listed."""


def check_graph(path: Path, *, rope: str) -> list[Finding]:
    """What TensorRT's parser would refuse in a graph file, weights unread. rope: "plugin" or "native"."""
    model = load_graph(path)
    types = tensor_types(model)
    findings = [*_check_model(model)]
    findings += [found for node in model.graph.node for found in check_node(node, types, rope=rope)]
    for function in model.functions:
        hidden = [node for node in function.node if node.op_type == OP_TYPE and node.domain == DOMAIN]
        findings += [
            Finding(
                node=node.name or function.name,
                op_type=OP_TYPE,
                problem=f"it stands inside the function {function.name}",
                advice="plugins bind in the main graph only: inline that function",
            )
            for node in hidden
        ]
    return findings


def _check_model(model: ModelProto) -> Iterator[Finding]:
    """What the parser would refuse in the file as a whole: its opset, and how weights are found."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        advice = f"export with {OPSETS.start} to {OPSETS.stop - 1}"
        yield Finding(node=model.graph.name, op_type="opset", problem=f"it is {opset}", advice=advice)
    for weight in model.graph.initializer:
        told = {entry.key: entry.value for entry in weight.external_data}
        strange = sorted(told.keys() - EXTERNAL_DATA_KEYS)
        if strange or ".." in Path(told.get("location", "")).parts:
            problem = f"its data is told by {', '.join(strange)}" if strange else "its file is outside the graph's folder"
            yield Finding(node=weight.name, op_type="weight", problem=problem, advice="export the bundle again")


def check_node(node: NodeProto, types: Types, *, rope: str) -> Iterator[Finding]:
    """What the parser would refuse in one node."""
    label = node.name or (node.output[0] if node.output else "?")

    def finding(problem: str, advice: str) -> Finding:
        return Finding(node=label, op_type=node.op_type, problem=problem, advice=advice)

    if node.op_type == OP_TYPE and node.domain == DOMAIN:
        if rope == "native":
            yield finding("the graph still holds our operator", "give the inlined twin")
        else:
            yield from (finding(*pair) for pair in (*_plugin_binding(node), *_plugin_heads(node, types)))
        return
    if node.domain not in ("", "ai.onnx"):
        yield finding(f"it is of the domain {node.domain!r}", "the parser ignores domains and looks by op type: inline it")
        return
    if node.op_type not in SUPPORTED:
        yield finding("it is not in the table of supported operators", "look it up in onnx-tensorrt's operators.md")
        return
    allowed, check = SUPPORTED[node.op_type]
    for name in node.input[: DATA_INPUTS.get(node.op_type, len(node.input))]:
        dtype = types.dtypes.get(name)
        if dtype is not None and dtype not in allowed | _index_types(node, name):
            yield finding(f"its input {name} is {TensorProto.DataType.Name(dtype)}", "cast it to a type that it takes")
    for name in node.input:
        if len(types.shapes.get(name, ())) > 8:
            yield finding(f"its input {name} has more than 8 axes", "TensorRT takes 8 at most")
    yield from (finding(*pair) for pair in check(node, types))


def _index_types(node: NodeProto, name: str) -> frozenset[int]:
    """Types of an input that isn't data: axes, sizes and conditions."""
    data = node.op_type in DATA_INPUTS or (bool(node.input) and name == node.input[0])
    return frozenset() if data else frozenset({TensorProto.INT64, TensorProto.BOOL})


def _plugin_binding(node: NodeProto) -> Iterator[tuple[str, str]]:
    given = {entry.name: entry for entry in node.attribute}
    for name, wanted in PLUGIN_ATTRIBUTES.items():
        value = onnx.helper.get_attribute_value(given[name]) if name in given else None
        if (value.decode() if isinstance(value, bytes) else value) != wanted:
            yield f"its attribute {name} is {value!r}, not {wanted!r}", "export the bundle again: the plugin isn't found so"
    if "epsilon" not in given or given["epsilon"].type != AttributeProto.FLOAT:
        yield "its epsilon is not a float attribute", "export the bundle again"


def _plugin_heads(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    """The kernel is compiled for a number of heads and their width, so the graph must state both."""
    shape = types.shapes.get(node.input[0]) if node.input else None
    if shape is not None and any(not isinstance(size, int) for size in shape[2:]):
        yield f"its input has the shape {shape}", "state the number of heads and their width where the heads are split"


def has_attention(model: ModelProto) -> bool:
    """Whether a fused attention layer could be missing at all."""
    return any(node.op_type == "Attention" for node in model.graph.node)


def lacks_fused_attention(model: ModelProto, precision: str) -> bool:
    """Whether some attention has no fused kernel for sure: in float32, or with a head too wide or of an odd width."""
    if precision == "fp32":
        return has_attention(model)
    shapes = tensor_types(model).shapes
    for node in model.graph.node:
        shape = shapes.get(node.input[0], ()) if node.op_type == "Attention" else ()
        if len(shape) == 4 and isinstance(shape[3], int) and shape[3] not in FUSED_WIDTHS:
            return True
    return False
