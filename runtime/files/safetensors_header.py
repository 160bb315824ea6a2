"""Reads and checks the headers of `.safetensors` files: each tensor's dtype, shape and location. Uses the standard library alone.

A file is an 8-byte little-endian length, that many bytes of JSON (name -> dtype, shape, data_offsets), then the data.
Knows nothing of torch or networks, and reads no tensor.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import one_line, shown
from .json_text import LFS_POINTER, parse_object
from .reading import open_regular, read_bytes

DTYPE_BYTES: Mapping[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
METADATA = "__metadata__"
STEMS = ("diffusion_pytorch_model", "model")  # the names that diffusers and transformers give a network's weights


class HeaderError(ValueError):
    """A file that is not what it should be. The message becomes one printable line of at most 300 characters."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


@dataclass(frozen=True, kw_only=True)
class TensorLocation:
    """A tensor's location: `nbytes` bytes at `offset` in the file `path`, row-major, little-endian.

    dtype: the safetensors name, a key of DTYPE_BYTES.
    """

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


def tensor_locations(folder: str | Path) -> dict[str, TensorLocation]:
    """Every tensor of a network's folder, from one file or from all shards that its index names.

    Raises ValueError, naming the file, for a missing, truncated or malformed file or shard, a tensor in two shards, or an
    index that disagrees with the shards.
    """
    weights = weight_file(Path(folder))
    if weights.name.endswith(".index.json"):
        return _sharded_locations(weights)
    return read_header(weights)


def weight_file(folder: Path) -> Path:
    """The folder's only `.safetensors` file, or the index of its shards. Raises ValueError for none or several."""
    usual = [folder / f"{stem}.safetensors{end}" for stem in STEMS for end in ("", ".index.json")]
    files = [path for path in usual if path.is_file()] or sorted(folder.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    if not files:
        raise HeaderError(f"{folder} holds no weights; expected one of {[path.name for path in usual]}")
    raise HeaderError(f"{folder} holds {[path.name for path in files]}; keep the one that is meant")


def read_header(path: Path) -> dict[str, TensorLocation]:
    """The tensors of one file, in the header's order. Raises ValueError, naming the file, where it is malformed."""
    return read_annotated_header(path)[0]


def read_annotated_header(path: Path) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    """The tensors of one file, and its metadata: texts by key. Raises ValueError as `read_header`."""
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            prefix = file.read(8)
            if prefix == LFS_POINTER[:8] and file.read(len(LFS_POINTER) - 8) == LFS_POINTER[8:]:
                raise HeaderError(f"{path} is a git-lfs pointer: fetch the file itself (git lfs pull)")
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
            if length > min(size - 8, MAX_HEADER_BYTES):
                raise HeaderError(f"{path} is truncated or no safetensors file: its {size} bytes hold no whole header")
            text = file.read(length)
    except OSError as error:
        raise HeaderError(f"{path} cannot be read: {error.strerror or error}") from error
    header = _parse(text, path)
    metadata = header.pop(METADATA, None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise HeaderError(f"{path} has {METADATA} {shown(metadata)}; an object of texts is allowed")
    data_start = 8 + length
    locations = {name: _location(name, entry, path, data_start, size) for name, entry in header.items()}
    _check_overlaps(locations, path)
    return locations, metadata


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as error:
        raise HeaderError(f"{path} has a header that {error}") from error


def _location(name: str, entry: Any, path: Path, data_start: int, size: int) -> TensorLocation:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise HeaderError(f"{path}: tensor {name!r} lacks dtype, shape or data_offsets") from error
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise HeaderError(f"{path}: tensor {name!r} has dtype {shown(dtype)}; known are {list(DTYPE_BYTES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        place = f"has shape {shown(shape)} at {shown(begin)}..{shown(end)}"
        raise HeaderError(f"{path}: tensor {name!r} {place}; integers from 0 up are allowed")
    nbytes = math.prod(shape) * DTYPE_BYTES[dtype]
    if end - begin != nbytes:
        raise HeaderError(f"{path}: tensor {name!r} takes {end - begin} bytes, its shape and dtype {nbytes}")
    if data_start + end > size:
        raise HeaderError(f"{path} is truncated: tensor {name!r} ends at byte {data_start + end} of {size}")
    return TensorLocation(path=path, dtype=dtype, shape=shape, offset=data_start + begin, nbytes=nbytes)


def _check_overlaps(locations: Mapping[str, TensorLocation], path: Path) -> None:
    end, before = 0, ""
    for name, location in sorted(locations.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if location.offset < end:
            raise HeaderError(f"{path}: tensors {before!r} and {name!r} overlap")
        end, before = location.offset + location.nbytes, name


def _sharded_locations(index: Path) -> dict[str, TensorLocation]:
    weight_map = _read_weight_map(index)
    locations: dict[str, TensorLocation] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / shard
        if not path.is_file():
            raise HeaderError(f"{path} is missing; {index.name} names it")
        tensors = read_header(path)
        if twice := tensors.keys() & locations.keys():
            raise HeaderError(f"{path} holds tensors that another shard holds too: {_list(twice)}")
        locations |= tensors
        if absent := {name for name, file in weight_map.items() if file == shard} - tensors.keys():
            raise HeaderError(f"{path} lacks tensors that {index.name} places there: {_list(absent)}")
    if extra := locations.keys() - weight_map.keys():
        raise HeaderError(f"{index} does not name tensors that its shards hold: {_list(extra)}")
    return locations


def _read_weight_map(index: Path) -> dict[str, str]:
    weight_map = _parse(read_bytes(index, MAX_HEADER_BYTES), index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise HeaderError(f"{index} has no weight_map")
    for shard in weight_map.values():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise HeaderError(f"{index} names the shard {shard!r}; a .safetensors file in its own folder is allowed")
    return weight_map


def _list(names: Iterable[str], limit: int = 8) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:limit]) + (f" and {len(ordered) - limit} more" if len(ordered) > limit else "")
