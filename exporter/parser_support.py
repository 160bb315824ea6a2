"""What TensorRT's ONNX parser takes, as a table, and what it would refuse in a graph: found before the long build.

Sources. Operators and types: onnx-tensorrt, docs/operators.md (of TensorRT 10.1; later releases are taken to have only added to
it). Attention came with 10.14, RMSNormalization and RotaryEmbedding with 10.15; their limits, and how a node finds its plugin,
follow notes on the 11.1 importers, which were not read again for this table.

The table holds what our exporter can emit, not all that the parser knows; what it lacks is reported, so a new operator has to be
looked up before it ships. No TensorRT is needed to use it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.shape_inference
from onnx import AttributeProto, NodeProto, TensorProto

from ..plugins.omni_rope import DOMAIN, OP_TYPE, PLUGIN_ATTRIBUTES

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


@dataclass(frozen=True, kw_only=True)
class Types:
    """Element types and ranks of a graph's tensors, as far as the graph states them, and its constants' names."""

    dtypes: Mapping[str, int]
    shapes: Mapping[str, tuple[int | str, ...]]
    constants: frozenset[str]


Check = Callable[[NodeProto, Types], Iterator[tuple[str, str]]]


def _nothing(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    yield from ()


def _attributes(node: NodeProto) -> dict[str, object]:
    return {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}


def _constant_input(index: int, name: str) -> Check:
    def check(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
        if len(node.input) > index and node.input[index] and node.input[index] not in types.constants:
            yield f"{name} is computed", f"make {name} an initializer"

    return check


def _attention(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    given = _attributes(node)
    if any(node.input[4:]):
        yield "it takes past keys and values", "join them with Concat before the node"
    if any(node.output[1:]):
        yield "it has more than one output", "keep only the first"
    if given.get("softcap"):
        yield "softcap is not taken", "leave it out"
    masked = len(node.input) > 3 and node.input[3]
    if masked and given.get("is_causal"):
        yield "it has a mask and is causal as well", "fold the triangle into the mask"
    if masked and len(types.shapes.get(node.input[3], ())) > 4:
        yield "its mask has more than 4 axes", "make it (B, H, Sq, Sk)"


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


def _rotary(node: NodeProto, types: Types) -> Iterator[tuple[str, str]]:
    if len(node.input) < 4 or not node.input[3]:
        for name in node.input[1:3]:
            if name in types.shapes and len(types.shapes[name]) != 3:
                yield f"{name} has {len(types.shapes[name])} axes", "expand tables to (B, S, Dh/2)"


SUPPORTED: dict[str, tuple[frozenset[int], Check]] = {
    "Abs": (NUMBERS, _nothing),
    "Add": (NUMBERS, _nothing),
    "Attention": (FLOATS | {TensorProto.BOOL}, _attention),
    "Cast": (ALL | {TensorProto.UINT8}, _nothing),
    "CastLike": (ALL | {TensorProto.UINT8}, _nothing),
    "Clip": (FLOATS, _nothing),
    "Concat": (ALL, _nothing),
    "Constant": (ALL, _nothing),
    "Conv": (FLOATS, _nothing),
    "Cos": (FLOATS, _nothing),
    "Div": (NUMBERS, _nothing),
    "Expand": (ALL, _nothing),
    "Gather": (ALL, _nothing),
    "Gelu": (NUMBERS | {TensorProto.INT8}, _nothing),
    "Gemm": (FLOATS, _nothing),
    "GroupNormalization": (FLOATS, _nothing),
    "Identity": (ALL, _nothing),
    "LayerNormalization": (FLOATS, _one_output),
    "MatMul": (FLOATS, _nothing),
    "Mul": (NUMBERS, _nothing),
    "Neg": (NUMBERS, _nothing),
    "Pad": (NUMBERS, _constant_input(3, "axes")),
    "ReduceMean": (NUMBERS, _constant_input(1, "axes")),
    "Reshape": (ALL, _nothing),
    "Resize": (FLOATS, _resize),
    "RMSNormalization": (FLOATS, _nothing),
    "RotaryEmbedding": (FLOATS | {TensorProto.INT64}, _rotary),
    "Shape": (ALL, _nothing),
    "Sigmoid": (FLOATS, _nothing),
    "Sin": (FLOATS, _nothing),
    "Slice": (ALL, _constant_input(3, "axes")),
    "Softmax": (FLOATS, _nothing),
    "Split": (ALL, _nothing),
    "Sqrt": (FLOATS, _nothing),
    "Squeeze": (ALL, _constant_input(1, "axes")),
    "Sub": (NUMBERS, _nothing),
    "Tanh": (FLOATS, _nothing),
    "Transpose": (ALL, _nothing),
    "Unsqueeze": (ALL, _constant_input(1, "axes")),
    "Where": (ALL, _nothing),
}
DATA_INPUTS = {"Resize": 1, "Reshape": 1, "Expand": 1, "Gather": 1, "CastLike": 1, "Attention": 3, "RotaryEmbedding": 1}
"""How many leading inputs the types are about; all of them where an operator isn't listed."""


def check_graph(path: Path, *, rope: str) -> list[Finding]:
    """What TensorRT's parser would refuse in a graph file, weights unread. rope: "plugin" or "native"."""
    model = load_graph(path)
    types = tensor_types(model)
    findings = [found for node in model.graph.node for found in check_node(node, types, rope=rope)]
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


def load_graph(path: Path) -> onnx.ModelProto:
    """A graph without its weights, with the types and shapes that onnx can infer."""
    return onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False), data_prop=True)


def check_node(node: NodeProto, types: Types, *, rope: str) -> Iterator[Finding]:
    """What the parser would refuse in one node."""
    label = node.name or (node.output[0] if node.output else "?")

    def finding(problem: str, advice: str) -> Finding:
        return Finding(node=label, op_type=node.op_type, problem=problem, advice=advice)

    if node.op_type == OP_TYPE and node.domain == DOMAIN:
        if rope == "native":
            yield finding("the graph still holds our operator", "give the inlined twin")
        else:
            yield from (finding(*pair) for pair in _plugin_binding(node))
        return
    if node.domain not in ("", "ai.onnx"):
        yield finding(
            f"it is of the domain {node.domain!r}", "the parser ignores domains and looks by op type: inline it"
        )
        return
    if node.op_type not in SUPPORTED:
        yield finding("it is not in the table of supported operators", "look it up in onnx-tensorrt's operators.md")
        return
    allowed, check = SUPPORTED[node.op_type]
    for name in node.input[: DATA_INPUTS.get(node.op_type, len(node.input))]:
        dtype = types.dtypes.get(name)
        if dtype is not None and dtype not in allowed | {TensorProto.INT64, TensorProto.BOOL} & _index_types(
            node, name
        ):
            yield finding(f"its input {name} is {TensorProto.DataType.Name(dtype)}", "cast it to a type that it takes")
    for name in node.input:
        if len(types.shapes.get(name, ())) > 8:
            yield finding(f"its input {name} has more than 8 axes", "TensorRT takes 8 at most")
    yield from (finding(*pair) for pair in check(node, types))


def _index_types(node: NodeProto, name: str) -> frozenset[int]:
    """Types of an input that isn't data: axes, sizes and conditions."""
    first = node.input[0] if node.input else ""
    return frozenset() if name == first else frozenset({TensorProto.INT64, TensorProto.BOOL})


def _plugin_binding(node: NodeProto) -> Iterator[tuple[str, str]]:
    given = {entry.name: entry for entry in node.attribute}
    for name, wanted in PLUGIN_ATTRIBUTES.items():
        value = onnx.helper.get_attribute_value(given[name]) if name in given else None
        if (value.decode() if isinstance(value, bytes) else value) != wanted:
            yield (
                f"its attribute {name} is {value!r}, not {wanted!r}",
                "export the bundle again: the plugin isn't found so",
            )
    if "epsilon" not in given or given["epsilon"].type != AttributeProto.FLOAT:
        yield "its epsilon is not a float attribute", "export the bundle again"


def tensor_types(model: onnx.ModelProto) -> Types:
    """The types and shapes that a model states."""
    graph = model.graph
    dtypes: dict[str, int] = {}
    shapes: dict[str, tuple[int | str, ...]] = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        tensor = value.type.tensor_type
        dtypes[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    for weight in graph.initializer:
        dtypes[weight.name] = weight.data_type
        shapes[weight.name] = tuple(weight.dims)
    constants = {node.output[0] for node in graph.node if node.op_type == "Constant"}
    return Types(
        dtypes=dtypes, shapes=shapes, constants=frozenset(constants | {weight.name for weight in graph.initializer})
    )


def has_attention(model: onnx.ModelProto) -> bool:
    """Whether a fused attention layer could be missing at all."""
    return any(node.op_type == "Attention" for node in model.graph.node)


def lacks_fused_attention(model: onnx.ModelProto, precision: str) -> bool:
    """Whether some attention has no fused kernel for sure: in float32, or with a head too wide or of an odd width."""
    if precision == "fp32":
        return has_attention(model)
    shapes = tensor_types(model).shapes
    for node in model.graph.node:
        shape = shapes.get(node.input[0], ()) if node.op_type == "Attention" else ()
        if len(shape) == 4 and isinstance(shape[3], int) and shape[3] not in FUSED_WIDTHS:
            return True
    return False
