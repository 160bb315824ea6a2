"""Element types: one row for each, with the name that every library gives it. Imports none of those libraries.

A precision ("fp32", "fp16", "bf16") is the element type that a graph computes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True, kw_only=True)
class DType:
    """One element type.

    name: as manifests and torch spell it; numpy's own name but for bfloat16, which comes from ml_dtypes.
    numpy: the type of host arrays.
    safetensors: the name in a safetensors header.
    onnx: the number in `onnx.TensorProto.DataType`.
    openvino: the attribute of `openvino.Type`.
    tensorrt: the member of `tensorrt.DataType`.
    """

    name: str
    numpy: np.dtype[Any]
    safetensors: str
    onnx: int
    openvino: str
    tensorrt: str

    @property
    def itemsize(self) -> int:
        """Bytes an element."""
        return self.numpy.itemsize


def _row(name: str, numpy: Any, safetensors: str, onnx: int, openvino: str, tensorrt: str) -> DType:
    kind: np.dtype[Any] = np.dtype(numpy)
    return DType(name=name, numpy=kind, safetensors=safetensors, onnx=onnx, openvino=openvino, tensorrt=tensorrt)


FLOAT32 = _row("float32", np.float32, "F32", 1, "f32", "FLOAT")
FLOAT16 = _row("float16", np.float16, "F16", 10, "f16", "HALF")
BFLOAT16 = _row("bfloat16", ml_dtypes.bfloat16, "BF16", 16, "bf16", "BF16")
INT64 = _row("int64", np.int64, "I64", 7, "i64", "INT64")
INT8 = _row("int8", np.int8, "I8", 3, "i8", "INT8")
UINT8 = _row("uint8", np.uint8, "U8", 2, "u8", "UINT8")
FLOAT8 = _row("float8_e4m3fn", ml_dtypes.float8_e4m3fn, "F8_E4M3", 17, "f8e4m3", "FP8")
BOOL = _row("bool", np.bool_, "BOOL", 9, "boolean", "BOOL")

DTYPES = {row.name: row for row in (FLOAT32, FLOAT16, BFLOAT16, INT64, INT8, UINT8, BOOL)}
"""The types of a graph's inputs and outputs by name. FLOAT8 is none: weights alone are stored so."""
BY_SAFETENSORS = {row.safetensors: row for row in (*DTYPES.values(), FLOAT8)}
PRECISIONS = {"fp32": FLOAT32, "fp16": FLOAT16, "bf16": BFLOAT16}
"""The precisions in their usual order, with the type that each computes in."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """The numpy type of an element type's name. Raises KeyError for an unknown one."""
    return DTYPES[name].numpy
