"""Runs the plugin through TensorRT's own plugin classes, from registration to the kernel, and prints the results as
JSON.

Run where `import tensorrt` finds the real bindings over stub libraries (tests/tensorrt_stubs.py). The doubles below replace
TensorRT's native library; all classes between it and our functions are NVIDIA's.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import tensorrt as trt


class Dimension:
    """A double of trt.IDimensionExpr: an int, or a symbol or formula as text."""

    def __init__(self, value: int | str) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return isinstance(self.value, int)

    def get_constant_value(self) -> int:
        return int(self.value)


class Dimensions(list[Any]):
    """A double of trt.DimsExprs."""

    def __init__(self, length: int) -> None:
        super().__init__([None] * length)


class ExpressionBuilder:
    """A double of trt.IExprBuilder."""

    def constant(self, value: int) -> Dimension:
        return Dimension(value)

    def operation(self, operation: Any, first: Dimension, second: Dimension) -> Dimension:
        return Dimension(f"{operation.name}({first.value}, {second.value})")


class SymbolicArgument:
    """A double of trt.ISymExpr: TensorRT's class takes native expressions only."""


class Registry:
    """A double of the plugin registry, which the stubs don't have."""

    def __init__(self) -> None:
        self.creators: list[Any] = []

    def register_creator(self, creator: Any, namespace: str) -> None:
        assert namespace == creator.plugin_namespace
        self.creators.append(creator)

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators[-1]


class Slots(dict[Any, Any]):
    """A double of IKernelLaunchParams and ISymExprs, which stores every item."""


REGISTRY = Registry()
trt.get_plugin_registry = lambda: REGISTRY
trt.IDimensionExpr, trt.DimsExprs, trt.ISymExpr = Dimension, Dimensions, SymbolicArgument

TYPES = {"fp32": trt.float32, "fp16": trt.float16, "bf16": trt.bfloat16}


def create(epsilon: float) -> Any:
    """The plugin as the ONNX parser creates it: it passes a float attribute as one float32."""
    value = np.array([epsilon], np.float32)
    fields = trt.PluginFieldCollection([trt.PluginField("epsilon", value, trt.PluginFieldType.FLOAT32)])
    (creator,) = REGISTRY.creators
    aot = trt.QuickPluginCreationRequest.STRICT_AOT
    return creator.create_plugin("OmniRope", "omnigen2", fields, trt.TensorRTPhase.BUILD, aot)


def describe(dtype: Any, *sizes: int) -> Any:
    description = trt.DynamicPluginTensorDesc()
    description.desc.type = dtype
    description.desc.dims = sizes
    description.desc.format = trt.TensorFormat.LINEAR
    return description


def build(dtype: str, weight_dtype: str, heads: int, tactic: int) -> dict[str, Any]:
    """The results of a build's calls, in a build's order. Batch and tokens are dynamic: -1."""
    x, weight, table = TYPES[dtype], TYPES[weight_dtype], trt.float32
    plugin = create(1e-5)
    output_types = plugin.get_output_data_types([x, weight, table, table], [4, 1, 2, 2])
    symbols = [["B", "S", heads, 120], [120], ["S", 60], ["S", 60]]
    dimensions = [[Dimension(size) for size in sizes] for sizes in symbols]
    output_shapes = plugin.get_output_shapes(dimensions, [], ExpressionBuilder())
    inputs = [
        describe(x, -1, -1, heads, 120),
        describe(weight, 120),
        describe(table, -1, 60),
        describe(table, -1, 60),
    ]
    output = describe(x, -1, heads, -1, 120)
    supported = [entry.type.name for entry in plugin.get_supported_format_combinations([*inputs, output], 4)]
    plugin.configure_plugin(inputs, [output])
    tactics = plugin.get_valid_tactics()
    plugin.set_tactic(tactic)
    launch, arguments = type("Launch", (), {})(), Slots()
    plugin.get_launch_params(dimensions, [*inputs, output], 4, launch, arguments, ExpressionBuilder())
    name, ptx = plugin.get_kernel([entry.desc for entry in inputs], [output.desc])
    return {
        "output_types": [entry.name for entry in output_types],
        "output_shapes": [[size.value for size in shape] for shape in output_shapes],
        "combinations": [supported[start : start + 5] for start in range(0, len(supported), 5)],
        "tactics": tactics,
        "launch": {key: value.expr.value for key, value in vars(launch).items()},
        "arguments": [arguments[index].expr.value for index in sorted(arguments)],
        "argument_types": [arguments[index].dtype.name for index in sorted(arguments)],
        "name": name,
        "ptx": ptx.decode(),
    }


def failure(**kwargs: Any) -> str:
    try:
        build(**kwargs)
    except ValueError as error:
        return str(error)
    return ""


def report() -> None:
    from omnigen2_rt.plugins.omni_rope.kernel import TACTICS
    from omnigen2_rt.plugins.omni_rope.plugin import is_registered, register

    before = is_registered()
    register()
    register()
    builds = [
        build(dtype, weight, heads, tactic)
        for dtype, weight, heads, tactic in (("bf16", "bf16", 21, 1), ("fp16", "fp32", 7, 2), ("fp32", "fp32", 21, 3))
    ]
    creators = [
        {
            "name": creator.name,
            "namespace": creator.plugin_namespace,
            "version": creator.plugin_version,
            "fields": [field.name for field in creator.field_names],
        }
        for creator in REGISTRY.creators
    ]
    results = {
        "is_registered": [before, is_registered()],
        "creators": creators,
        "tactics": [(tactic.rows, tactic.warps) for tactic in TACTICS],
        "builds": builds,
        "free_heads": failure(dtype="bf16", weight_dtype="bf16", heads=-1, tactic=1),
    }
    sys.stdout.write(json.dumps(results) + "\n")
