"""Writes a safetensors file tensor by tensor, so that what is written never has to fit in memory at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from ...reference.safetensors_header import TensorLocation

NUMPY_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
}


@dataclass(frozen=True, kw_only=True)
class NewTensor:
    """A tensor to write: safetensors dtype, shape, and a function that makes its values when their turn comes."""

    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def read_tensor(place: TensorLocation) -> np.ndarray:
    """A stored tensor as a mapped array of its own dtype (bfloat16 by ml_dtypes)."""
    return np.memmap(place.path, NUMPY_DTYPES[place.dtype], "r", place.offset, place.shape)


def write_tensors(path: Path, tensors: Mapping[str, NewTensor]) -> dict[str, TensorLocation]:
    """Write the file (to a temporary name, then renamed) and return where each tensor lies in it."""
    sizes = {name: math.prod(new.shape) * NUMPY_DTYPES[new.dtype].itemsize for name, new in tensors.items()}
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name], end = end, end + size
    header = {
        name: {"dtype": new.dtype, "shape": new.shape, "data_offsets": [offsets[name], offsets[name] + sizes[name]]}
        for name, new in tensors.items()
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for new in tensors.values():
            file.write(np.ascontiguousarray(new.values()).astype(NUMPY_DTYPES[new.dtype], copy=False).tobytes())
    os.replace(temporary, path)
    start = 8 + len(text)
    return {
        name: TensorLocation(path=path, dtype=new.dtype, shape=new.shape, offset=start + offsets[name], nbytes=sizes[name])
        for name, new in tensors.items()
    }
