"""Writes a component's graph over the checkpoint's weights, and makes its entry in the manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from ..runtime.dtypes import PRECISIONS
from ..runtime.files.safetensors_header import TensorLocation
from ..runtime.manifest import GraphSpec, TensorSpec
from .components import Component, Tensor
from .graph_writer import complete_graph_spec, write_graph, write_inlined_graph
from .trace import trace
from .weights.zero_copy import attach_weights


def graph_file(component: Component, precision: str) -> str:
    """The name of a graph's file."""
    return f"{component.name}.{precision}.onnx"


def write_component(
    component: Component,
    config: Any,
    build: Callable[[], torch.nn.Module],
    locations: dict[str, TensorLocation],
    folder: Path,
    precision: str,
    compute: str,
) -> None:
    """Write the component's graph for `precision`, which computes in `compute`, and its twin if it has functions.

    config: of the component's inputs and outputs. build: makes the network, as `trace` wants it. locations: inside `folder`.
    """
    file = folder / graph_file(component, precision)
    model = trace(component, config, build, compute)
    attach_weights(model, locations, folder, ir.DataType(PRECISIONS[compute].onnx))
    if model.functions:
        write_inlined_graph(folder / _inlined(file.name), model)
    write_graph(file, model)


def component_spec(component: Component, config: Any, folder: Path, precision: str, compute: str) -> GraphSpec:
    """The manifest's entry for a graph that `write_component` wrote into `folder`."""
    file = graph_file(component, precision)
    spec = GraphSpec(
        component=component.name,
        precision=precision,
        file=file,
        sha256="",
        inputs=_tensor_specs(component.inputs(config), compute),
        outputs=_tensor_specs(component.outputs(config), compute),
        weight_bytes=0,
        resident_bytes=0,
        inlined=_inlined(file) if (folder / _inlined(file)).is_file() else None,
        keeps_float32=component.keeps_float32,
        picture_rows=component.picture_rows,
        repeats_shapes=component.repeats_shapes,
    )
    return complete_graph_spec(spec, folder, ir.load(folder / file), compute)


def _inlined(file: str) -> str:
    return f"{file.removesuffix('.onnx')}.inlined.onnx"


def _tensor_specs(tensors: dict[str, Tensor], compute: str) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(dtype=PRECISIONS[compute].name if tensor.dtype == "compute" else tensor.dtype, shape=tensor.shape)
        for name, tensor in tensors.items()
    }
