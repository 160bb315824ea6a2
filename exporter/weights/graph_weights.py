"""Points weights of a finished graph at other bytes, in float32.

    looks for   an initializer of a new weight's name; a Cast may follow it
    puts there  the initializer in float32, its bytes elsewhere; a Cast follows it unless the graph computes in float32

The result is the graph that an export over these weights writes, but for notes of PyTorch (metadata_props). Works on protobuf's
wire format, so that merging a LoRA into a bundle needs no `onnx`. Of ONNX (onnx/onnx.proto) it knows these fields:
- model, 7: graph; graph, 1: node, 5: initializer, 13: value_info
- node, 1: input, 2: output, 3: name, 4: op_type, 5: attribute; attribute, 1: name, 3: i, 20: type
- tensor, 2: data_type, 8: name, 13: external_data, whose entries have 1: key, 2: value
- value info, 1: name, 2: type; type, 1: tensor_type; tensor type, 1: elem_type
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ...runtime.dtypes import PRECISIONS
from ...runtime.files.onnx_wire import fields, integer, message
from ...runtime.files.safetensors_header import TensorLocation

GRAPH, NODE, INITIALIZER, VALUE_INFO = 7, 1, 5, 13
FLOAT, INT = PRECISIONS["fp32"].onnx, 2


class _Field(NamedTuple):
    """A field of a message: its bytes, and those of its value where that is a message or a text."""

    number: int
    whole: bytes
    value: bytes


def replace_weights(model: bytes, weights: Mapping[str, TensorLocation], bundle: Path, precision: str) -> bytes:
    """The model, which computes in `precision`, with its initializers of these names read from other places.

    weights: float32 tensors by the initializers' names, in files inside `bundle`. Raises ValueError for bytes that are no model.
    """
    compute = PRECISIONS[precision].onnx

    def replaced(field: _Field) -> bytes:
        return message(GRAPH, _graph(field.value, weights, bundle, compute)) if field.number == GRAPH else field.whole

    return b"".join(map(replaced, _fields(model)))


def _graph(graph: bytes, weights: Mapping[str, TensorLocation], bundle: Path, compute: int) -> bytes:
    """Initializers stand in the order of an export: weights that are stored in another type than `compute` come last."""
    parts = _fields(graph)
    nodes = [field.value for field in parts if field.number == NODE]
    tensors = {_text(field.value, 8): field.value for field in parts if field.number == INITIALIZER}
    casts = {_text(node, 1): node for node in nodes if _is_cast_of_weight(node) and _text(node, 1) in tensors}
    touched = [name for name in tensors if name in weights]
    if compute == FLOAT:
        removed = {casts[name] for name in touched if name in casts}
        renamed = {_text(cast, 2).encode(): _text(cast, 1).encode() for cast in removed}
        nodes = [_with_inputs(node, renamed) for node in nodes if node not in removed]
    else:
        new = {name: _cast(name, compute) for name in touched if name not in casts}
        renamed = {name.encode(): f"{name}.cast".encode() for name in new}
        nodes = [*reversed(new.values()), *(_with_inputs(node, renamed) for node in nodes)]
    tensors |= {name: _tensor(tensors[name], weights[name], bundle) for name in touched}
    order = sorted(tensors, key=lambda name: _is_stored_otherwise(tensors[name], compute))
    replaced = {
        NODE: nodes,
        INITIALIZER: [tensors[name] for name in order],
        VALUE_INFO: _value_infos([field.value for field in parts if field.number == VALUE_INFO], order, touched),
    }
    others = [(field.number, field.whole) for field in parts if field.number not in replaced]
    written = [(number, message(number, value)) for number, values in replaced.items() for value in values]
    return b"".join(whole for _, whole in sorted([*others, *written], key=lambda part: part[0]))


def _is_cast_of_weight(node: bytes) -> bool:
    """Whether a node is a Cast that an export put behind a weight."""
    return _text(node, 4) == "Cast" and _text(node, 3) == f"{_text(node, 1)}.cast"


def _is_stored_otherwise(tensor: bytes, compute: int) -> bool:
    """Whether a tensor lies in another file, in another type than the graph computes in."""
    parts = _fields(tensor)
    return any(field.number == 13 for field in parts) and integer(2, compute) not in (field.whole for field in parts)


def _with_inputs(node: bytes, renamed: Mapping[bytes, bytes]) -> bytes:
    """The node with other names of its inputs."""
    return _replaced(node, 1, lambda field: message(1, renamed.get(field.value, field.value)))


def _cast(name: str, compute: int) -> bytes:
    """The node `name`.cast, which casts the value `name`."""
    to = message(1, b"to") + integer(3, compute) + integer(20, INT)
    output = f"{name}.cast".encode()
    return message(1, name.encode()) + message(2, output) + message(3, output) + message(4, b"Cast") + message(5, to)


def _tensor(tensor: bytes, place: TensorLocation, bundle: Path) -> bytes:
    """The tensor in float32 at another place."""
    file = place.path.relative_to(bundle).as_posix()
    entries = {"location": file, "offset": str(place.offset), "length": str(place.nbytes)}.items()
    floats = _replaced(tensor, 2, lambda field: integer(2, FLOAT))
    others = [(field.number, field.whole) for field in _fields(floats) if field.number != 13]
    external = [(13, message(13, message(1, key.encode()) + message(2, value.encode()))) for key, value in entries]
    return b"".join(whole for _, whole in sorted([*others, *external], key=lambda part: part[0]))


def _value_infos(infos: Sequence[bytes], order: Sequence[str], touched: Sequence[str]) -> list[bytes]:
    """The types of values: of initializers in their order, then of others. Those that are touched become float32."""
    places = {name: place for place, name in enumerate(order)}
    kept = sorted(infos, key=lambda info: places.get(_text(info, 1), len(places)))
    return [_with_element_type(info, FLOAT) if _text(info, 1) in touched else info for info in kept]


def _with_element_type(info: bytes, element: int) -> bytes:
    def of_tensor(field: _Field) -> bytes:
        return message(1, _replaced(field.value, 1, lambda _: integer(1, element)))

    return _replaced(info, 2, lambda field: message(2, _replaced(field.value, 1, of_tensor)))


def _fields(data: bytes) -> list[_Field]:
    return [_Field(number, data[start:end], data[value:end]) for number, _, start, value, end in fields(data)]


def _replaced(data: bytes, number: int, new: Callable[[_Field], bytes]) -> bytes:
    """The message with `new` of each of its fields of that number."""
    return b"".join(new(field) if field.number == number else field.whole for field in _fields(data))


def _text(data: bytes, number: int) -> str:
    """The first text in the message's fields of that number, or an empty one."""
    return next((field.value.decode("utf-8", "backslashreplace") for field in _fields(data) if field.number == number), "")
