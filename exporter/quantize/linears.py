"""Finds a graph's Linears: products with a stored weight, grouped by the value that they read. Changes no graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...runtime.dtypes import PRECISIONS
from ...runtime.files.safetensors_header import TensorLocation
from ..weights.tensor_file import read_tensor
from .rounding import Floats
from .schemes import ROUNDED

SAFETENSORS_NAMES = {ir.DataType(row.onnx): row.safetensors for row in PRECISIONS.values()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """A product with a stored weight.

    node: a MatMul or Gemm.
    weight: where it lies, (out, in).
    name: the weight's.
    """

    node: ir.Node
    weight: TensorLocation
    name: str

    def values(self) -> Floats:
        """The weight, (in, out) float32."""
        return read_tensor(self.weight).astype(np.float32).T


def find_linears(model: ir.Model) -> list[tuple[Linear, ...]]:
    """The graph's Linears whose weights may be rounded, in the graph's order; those that read one value share a tuple."""
    by_value: dict[ir.Value, list[Linear]] = {}
    for linear in _linears(model):
        if any(part in linear.name for part in ROUNDED):
            value = linear.node.inputs[0]
            assert value is not None
            by_value.setdefault(value, []).append(linear)
    return [tuple(linears) for linears in by_value.values()]


def _linears(model: ir.Model) -> Iterator[Linear]:
    for node in model.graph:
        if node.op_type == "MatMul":
            transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
            weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else None
        elif node.op_type == "Gemm" and len(node.inputs) == 2 and node.attributes["transB"].as_int() == 1:
            weight = node.inputs[1]
        else:
            continue
        if weight is not None and (cast := weight.producer()) is not None and cast.op_type == "Cast":
            weight = cast.inputs[0]
        stored = None if weight is None else weight.const_value
        if isinstance(stored, ir.ExternalTensor) and stored.shape.rank() == 2 and stored.dtype in SAFETENSORS_NAMES:
            yield Linear(node=node, weight=_location(stored), name=stored.name or "")


def _location(stored: ir.ExternalTensor) -> TensorLocation:
    """The weight's place: onnx_ir itself reads no file that has several hard links, as a bundle's weights have."""
    return TensorLocation(
        path=Path(stored.path),
        dtype=SAFETENSORS_NAMES[stored.dtype],
        shape=tuple(stored.shape.numpy()),
        offset=stored.offset or 0,
        nbytes=stored.nbytes,
    )
