"""Writes the weights once more in the type that a graph computes in, for runtimes that would otherwise convert them at load.

ONNX Runtime then maps the file instead of holding a converted copy of it in memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ...runtime.dtypes import PRECISIONS, DType
from ...runtime.files.safetensors_header import TensorLocation
from .tensor_file import Locations, NewTensor, read_tensor, write_tensors


def materialize(locations: Locations, bundle: Path, precision: str) -> Locations:
    """Write every tensor that isn't stored in `precision` into `<part>/<precision>.safetensors`; returns the new places."""
    dtype = PRECISIONS[precision]
    return {
        part: {**tensors, **_converted(tensors, bundle / part / f"{precision}.safetensors", dtype)}
        for part, tensors in locations.items()
    }


def _converted(tensors: dict[str, TensorLocation], target: Path, dtype: DType) -> dict[str, TensorLocation]:
    new = {name: _new(place, dtype) for name, place in tensors.items() if place.dtype != dtype.safetensors}
    return write_tensors(target, new) if new else {}


def _new(place: TensorLocation, dtype: DType) -> NewTensor:
    def values() -> np.ndarray:
        return read_tensor(place).astype(dtype.numpy)

    return NewTensor(dtype=dtype.safetensors, shape=place.shape, values=values)
