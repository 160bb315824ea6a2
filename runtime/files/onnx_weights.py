"""The external data of an ONNX graph: where each weight lies that isn't in the file itself.

A tensor may name any file, and an engine may read it: a path outside the bundle, or a memory address. So every external tensor is
listed here, of the graph itself, of graphs inside nodes, of functions and of sparse tensors. Fields: onnx/onnx.proto. What
two readers might read differently, such as a field given twice, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from .onnx_wire import BYTES, VARINT, fields, integers, varint

MAX_GRAPH_BYTES = 8 * 2**20
"""The largest graph that is read: weights lie elsewhere, and the full-size transformer's graph takes less than 1 MB."""
MAX_DEPTH = 64
"""Graphs inside nodes inside graphs."""
MAX_RANK = 32
LOCATION = b"location"

CHILDREN = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: "tensor", 2: "tensor"},
}
"""The fields of each message that may lead to a tensor."""
SINGLE = {("model", 7), ("training", 1), ("training", 2), ("attribute", 5), ("attribute", 6), ("attribute", 22),
          ("sparse tensor", 1), ("sparse tensor", 2)}  # fmt: skip
MODEL_FIELDS = {1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26}
BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16, 17: 8,
        18: 8, 19: 8, 20: 8, 21: 4, 22: 4}  # fmt: skip
"""The size of an element by `TensorProto.DataType`."""
KEYS = {"location", "offset", "length", "checksum"}


class ExternalTensor(NamedTuple):
    """A tensor whose `nbytes` bytes lie at `offset` in the file `location`."""

    name: str
    location: str
    offset: int
    nbytes: int


def external_tensors(graph: bytes) -> list[ExternalTensor]:
    """The external tensors of an ONNX file. Raises ValueError, to go after its name, for bytes that are no ONNX model."""
    numbers = {number for number, *_ in fields(graph)}
    if not {1, 7} <= numbers <= MODEL_FIELDS:
        raise ValueError("is no ONNX model")
    return list(_walk(graph, "model", 0, len(graph), MAX_DEPTH * 3))


def _walk(data: bytes, kind: str, start: int, stop: int, depth: int) -> Iterator[ExternalTensor]:
    """The external tensors of a message. One in which the word "location" doesn't occur has none."""
    if data.find(LOCATION, start, stop) < 0:
        return
    if depth == 0:
        raise ValueError("is nested too deeply")
    if kind == "tensor":
        yield from _external(data, start, stop)
        return
    children, seen = CHILDREN[kind], set[int]()
    for number, wire, _, at, end in fields(data, start, stop):
        if wire == BYTES and number in children:
            if number in seen and (kind, number) in SINGLE:
                raise ValueError(f"is no ONNX model: it has a field of a {kind} twice")
            seen.add(number)
            yield from _walk(data, children[number], at, end, depth - 1)


def _external(data: bytes, start: int, stop: int) -> Iterator[ExternalTensor]:
    """The tensor, where it is external."""
    name, dtype = "", 0
    dims: list[int] = []
    entries: dict[str, str] = {}
    for number, wire, _, at, end in fields(data, start, stop):
        if number == 13 and wire == BYTES:
            key, value = _entry(data[at:end])
            if key in entries or key not in KEYS:
                raise ValueError(f"holds a tensor {name!r} whose external data has {key!r} twice, or it is unknown")
            entries[key] = value
        elif number == 1:
            dims += integers(data, wire, at, end)
        elif number == 2 and wire == VARINT:
            dtype, _ = varint(data, at, end)
        elif number == 8 and wire == BYTES:
            name = _text(data[at:end])
    if not entries:
        return
    if len(dims) > MAX_RANK:
        raise ValueError(f"holds an external tensor {name!r} of {len(dims)} dimensions; allowed are {MAX_RANK}")
    if dtype not in BITS:
        raise ValueError(f"holds an external tensor {name!r} of the unknown type {dtype}")
    nbytes = -(-math.prod(dims) * BITS[dtype] // 8)
    if _integer(entries.get("length", str(nbytes)), name) != nbytes:
        raise ValueError(f"holds an external tensor {name!r} of {nbytes} bytes with the length {entries['length']}")
    yield ExternalTensor(name, entries.get("location", ""), _integer(entries.get("offset", "0"), name), nbytes)


def _entry(entry: bytes) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto."""
    parts: dict[int, str] = {}
    for number, wire, _, at, end in fields(entry):
        if number not in (1, 2) or wire != BYTES or number in parts:
            raise ValueError("holds an entry of external data that is no key and value")
        parts[number] = _text(entry[at:end])
    return parts.get(1, ""), parts.get(2, "")


def _integer(digits: str, name: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        raise ValueError(f"holds an external tensor {name!r} whose offset or length is {digits[:40]!r}, not a whole number")
    return int(digits)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "backslashreplace")
