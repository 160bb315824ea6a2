"""Reads tensors of safetensors files, and writes such files tensor by tensor: they never have to fit in memory at once."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.dtypes import BY_SAFETENSORS, PRECISIONS
from ...runtime.files.safetensors_header import TensorLocation
from ...runtime.files.writing import atomic_file

WEIGHT_DTYPES = tuple(row.safetensors for row in PRECISIONS.values())
"""The types of a checkpoint's weights, as safetensors names them."""
Locations = dict[str, dict[str, TensorLocation]]
"""Places of tensors by part, then by the reference network's parameter name."""


@dataclass(frozen=True, kw_only=True)
class NewTensor:
    """A tensor to write.

    dtype: as safetensors names it.
    values: computes the values; called when the tensor is written.
    """

    dtype: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]


def read_tensor(place: TensorLocation) -> np.ndarray:
    """A stored tensor as a mapped array of its own dtype (bfloat16 by ml_dtypes)."""
    return np.memmap(place.path, BY_SAFETENSORS[place.dtype].numpy, "r", place.offset, place.shape)


def write_tensors(
    path: Path, tensors: Mapping[str, NewTensor], written: Callable[[int], object] = lambda count: None
) -> dict[str, TensorLocation]:
    """Write the file whole or not at all; returns where each tensor lies in it. Raises OSError.

    written: called with the number of tensors that were written, before each and at the end.
    """
    header, locations = _layout(path, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(header)
        for count, new in enumerate(tensors.values()):
            written(count)
            values = np.ascontiguousarray(new.values()).astype(BY_SAFETENSORS[new.dtype].numpy, copy=False)
            file.write(values.reshape(-1).view(np.uint8).data)
        written(len(tensors))
    return locations


def _layout(path: Path, tensors: Mapping[str, NewTensor]) -> tuple[bytes, dict[str, TensorLocation]]:
    """The file's header, and where each tensor will lie."""
    sizes = {name: math.prod(new.shape) * BY_SAFETENSORS[new.dtype].itemsize for name, new in tensors.items()}
    offsets, end = {}, 0
    for name, size in sizes.items():
        offsets[name], end = end, end + size
    entries = {
        name: {"dtype": new.dtype, "shape": new.shape, "data_offsets": [offsets[name], offsets[name] + sizes[name]]}
        for name, new in tensors.items()
    }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    locations = {
        name: TensorLocation(path=path, dtype=new.dtype, shape=new.shape, offset=start + offsets[name], nbytes=sizes[name])
        for name, new in tensors.items()
    }
    return len(text).to_bytes(8, "little") + text, locations
