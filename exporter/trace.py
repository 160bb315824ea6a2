"""One component of the reference network becomes an ONNX graph that holds no weights.

The network lives under FakeTensorMode: it has names, shapes and dtypes, and no memory. What comes out is an onnx_ir model whose
initializers are named after the network's parameters and are still empty; `weights/zero_copy.py` says where their bytes are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer
import torch
from torch._subclasses import FakeTensorMode

from ..plugins.omni_rope.function import omni_rope_function
from ..runtime.dtypes import DTYPES, PRECISIONS
from .components import Component, Tensor

OPSET = 23
TORCH_DTYPES = {precision: getattr(torch, row.name) for precision, row in PRECISIONS.items()}
ONNX_DTYPES = {name: ir.DataType(row.onnx) for name, row in {**PRECISIONS, **DTYPES}.items()}


class _Traced(torch.nn.Module):
    """Module for torch.export: the network as a submodule, the component's function as forward."""

    def __init__(self, network: torch.nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.network = network
        self.compute = forward

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.compute(self.network, *inputs)


def trace(component: Component, config: Any, build: Callable[[], torch.nn.Module], precision: str) -> ir.Model:
    """The component's graph in `precision` ("fp32", "fp16", "bf16"), optimized, with empty initializers.

    build: makes the network; called under FakeTensorMode, so that it takes no memory. An initializer's name is its parameter's.
    """
    with FakeTensorMode(allow_non_fake_inputs=False) as fake:
        with _default_dtype(TORCH_DTYPES[precision]):  # fake parameters can't be converted once they exist
            network = build().eval()
        inputs = _fake_inputs(component, config, precision)
    model = optimized_graph(_Traced(network, component.forward), inputs, _dynamic_shapes(component.inputs(config)), fake)
    _attach_function(model)
    _name_everything(model, component, config, precision)
    return model


def optimized_graph(
    network: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    dynamic_shapes: tuple[dict[int, Any], ...],
    fake: FakeTensorMode,
) -> ir.Model:
    """Returns the graph of the network's forward with torch's names. `network` and `inputs` live under `fake`."""
    with fake, torch.no_grad(), _quiet():
        program = torch.export.export(network, inputs, dynamic_shapes=(dynamic_shapes,), strict=False)
        exported = torch.onnx.export(program, opset_version=OPSET, dynamo=True, optimize=False, verbose=False)
        assert exported is not None
        model = exported.model
        _empty_weights(model)
        onnxscript.optimizer.optimize_ir(model)
    return model


def _fake_inputs(component: Component, config: Any, precision: str) -> tuple[torch.Tensor, ...]:
    shapes = {name: array.shape for name, array in component.sample(config).items()}
    dtypes = {"compute": TORCH_DTYPES[precision], "float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
    specs = component.inputs(config)
    return tuple(torch.empty(shapes[name], dtype=dtypes[specs[name].dtype]) for name in specs)


def _dynamic_shapes(specs: dict[str, Tensor]) -> tuple[dict[int, Any], ...]:
    dynamic = torch.export.Dim.DYNAMIC
    return tuple({k: dynamic for k, dim in enumerate(spec.shape) if isinstance(dim, str)} for spec in specs.values())


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of operators of torchvision and the optimizer of empty initializers: both are as they should be."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _empty_weights(model: ir.Model) -> None:
    """Parameters lose their (fake) values before the optimizer runs: it must never fold what it cannot read."""
    for value in model.graph.initializers.values():
        if value.name is not None and value.name.startswith("network."):
            value.const_value = None


def _attach_function(model: ir.Model) -> None:
    function = omni_rope_function()
    if any((node.domain, node.op_type) == (function.domain, function.name) for node in model.graph):
        model.functions[function.identifier()] = function
        model.graph.opset_imports[function.domain] = 1


def _name_everything(model: ir.Model, component: Component, config: Any, precision: str) -> None:
    """Inputs, outputs and their sizes get the component's names; what the tracer called things in between is dropped."""
    graph = model.graph
    passes.RemoveUnusedNodesPass()(model)
    for value in list(graph.initializers.values()):
        assert value.name is not None
        if not value.uses() and value not in graph.outputs:
            del graph.initializers[value.name]
        elif value.name.startswith("network."):
            value.name = value.name.removeprefix("network.")
    for node in graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.shape = None
            value.metadata_props.clear()
    _name(list(graph.inputs), component.inputs(config), precision)
    _name(list(graph.outputs), component.outputs(config), precision)
    graph.name = component.name
    model.producer_name = "omnigen2-rt"
    model.producer_version = None
    model.metadata_props.clear()
    graph.metadata_props.clear()


def _name(values: list[ir.Value], specs: dict[str, Tensor], precision: str) -> None:
    assert len(values) == len(specs), f"the graph has {len(values)} inputs or outputs, the component names {len(specs)}"
    for value, (name, spec) in zip(values, specs.items(), strict=True):
        value.name = name
        value.shape = ir.Shape(spec.shape)
        value.dtype = ONNX_DTYPES[precision if spec.dtype == "compute" else spec.dtype]
