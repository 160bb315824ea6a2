"""Writes the weights once more in the type that a graph computes in, for runtimes that would otherwise convert them at load.

ONNX Runtime then maps the file instead of holding a converted copy of it in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...reference.safetensors_header import TensorLocation
from .tensor_file import NUMPY_DTYPES, NewTensor, read_tensor, write_tensors

SAFETENSORS_DTYPES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}
Locations = dict[str, dict[str, TensorLocation]]


def materialize(locations: Locations, bundle: Path, precision: str) -> Locations:
    """Every tensor that isn't stored in `precision` goes into `<part>/<precision>.safetensors`; returns the new places."""
    dtype = SAFETENSORS_DTYPES[precision]
    placed = {}
    for part, tensors in locations.items():
        placed[part] = {**tensors, **_converted(tensors, bundle / part / f"{precision}.safetensors", dtype)}
    return placed


def _converted(tensors: dict[str, TensorLocation], target: Path, dtype: str) -> dict[str, TensorLocation]:
    foreign = {name: found for name, found in tensors.items() if found.dtype != dtype}
    return write_tensors(target, {name: _new(found, dtype) for name, found in foreign.items()}) if foreign else {}


def _new(found: TensorLocation, dtype: str) -> NewTensor:
    def values() -> np.ndarray:
        return read_tensor(found).astype(NUMPY_DTYPES[dtype])

    return NewTensor(dtype=dtype, shape=found.shape, values=values)
