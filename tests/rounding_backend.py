"""An engine that computes in 16 bits, on a CPU: each node in float32, its result rounded to the graph's type, as GPUs do it.

ONNX Runtime's CPU provider has no bfloat16 kernels, and runs chains of float16 nodes in float32 without rounding in between. So
a 16-bit graph is rewritten: whatever is 16 bits wide in it becomes float32, and passes through a cast there and back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper, shape_inference

from omnigen2_rt.runtime.backends import BACKENDS, BackendEntry, Choice
from omnigen2_rt.runtime.backends.ort import OrtBackend, OrtSession
from omnigen2_rt.runtime.bundle import Bundle

FLOAT = onnx.TensorProto.FLOAT
ONNX_TYPES = {"bf16": onnx.TensorProto.BFLOAT16, "fp16": onnx.TensorProto.FLOAT16}
NUMPY_TYPES = {"bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def add_rounding_backend(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let `load` and `compare` know the backend for one test; returns its name."""

    def create(bundle: Bundle, choice: Choice) -> RoundingBackend:
        return RoundingBackend(bundle, "ort-cpu", choice.precision, choice.threads, choice.streams_weights)

    entry = BackendEntry(precisions=lambda threads: tuple(ONNX_TYPES), problem=lambda: None, create=create)
    monkeypatch.setitem(BACKENDS, "rounding", entry)
    return "rounding"


class RoundingBackend(OrtBackend):
    """ONNX Runtime on rewritten graphs. What is 16 bits wide elsewhere is float32 here, with values that 16 bits hold."""

    def open(self, component: str) -> OrtSession:
        spec = self._bundle.graph(component, self.precision)
        graph = rounding_graph(self._bundle.path / (spec.inlined or spec.file), ONNX_TYPES[self.precision])
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._threads or 0
        session = self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return OrtSession(session, spec, self)

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> Any:
        if dtype in NUMPY_TYPES:
            array, dtype = array.astype(NUMPY_TYPES[dtype]).astype(np.float32), "float32"
        return super().to_device(array, dtype)


def rounding_graph(path: Path, narrow: int) -> bytes:
    """The graph with its weights inside, in float32; every result that was of the type `narrow` is rounded to it."""
    model = onnx.load(path, load_external_data=False)
    graph = shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.value_info, *graph.output]
    rounded = {value.name for value in values if value.type.tensor_type.elem_type == narrow}
    nodes = []
    for node in graph.node:
        _widen_attributes(node, narrow)
        nodes += [node, *_round_outputs(node, rounded, narrow)]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == narrow:
            value.type.tensor_type.elem_type = FLOAT
    weights = {name: _widened(_read(value.const_value)) for name, value in ir.load(path).graph.initializers.items()}
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    new = helper.make_graph(nodes, graph.name, graph.input, graph.output, initializers)
    made = helper.make_model(new, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(made.SerializeToString())


def _read(tensor: Any) -> np.ndarray:
    """A weight's values. onnx_ir won't read files that have several names, as ours have."""
    if isinstance(tensor, ir.ExternalTensor):
        return np.memmap(tensor.path, tensor.dtype.numpy(), "r", tensor.offset, tuple(tensor.shape.numpy()))
    return np.asarray(tensor.numpy())


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if array.dtype in NUMPY_TYPES.values() else array


def _widen_attributes(node: onnx.NodeProto, narrow: int) -> None:
    for attribute in node.attribute:
        assert attribute.type != onnx.AttributeProto.GRAPH, f"{node.name} has a graph of its own"
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == narrow:
            attribute.i = FLOAT
        if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == narrow:
            attribute.t.CopyFrom(numpy_helper.from_array(_widened(numpy_helper.to_array(attribute.t))))


def _round_outputs(node: onnx.NodeProto, rounded: set[str], narrow: int) -> list[onnx.NodeProto]:
    casts = []
    for position, name in enumerate(node.output):
        if name in rounded:
            node.output[position] = f"{name}.exact"
            casts.append(helper.make_node("Cast", [f"{name}.exact"], [f"{name}.narrow"], to=narrow))
            casts.append(helper.make_node("Cast", [f"{name}.narrow"], [name], to=FLOAT))
    return casts
