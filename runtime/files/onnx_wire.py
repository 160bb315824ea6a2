"""The wire format of ONNX files (protobuf): fields of messages, and integers. The runtime has no library for it.

Stricter than protobuf's own readers. Groups, which ONNX has none of, are refused, and so are field numbers beyond 32 bits: those
readers drop the higher bits, and would find a field that this one doesn't know.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED_64, BYTES, FIXED_32 = 0, 1, 2, 5

Field = tuple[int, int, int, int, int]
"""A field of a message: its number, its wire type, and where it starts, where its value starts and where both stop."""


def fields(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[Field]:
    """The fields of the message in `data[start:stop]`. Raises ValueError, to go after a file's name, for other bytes."""
    at, stop = start, len(data) if stop is None else stop
    while at < stop:
        tag, value = (data[at], at + 1) if data[at] < 128 else varint(data, at, stop)
        wire = tag & 7
        if wire == BYTES:
            length, value = (data[value], value + 1) if value < stop and data[value] < 128 else varint(data, value, stop)
            end = value + length
        elif wire == VARINT:
            end = varint(data, value, stop)[1]
        elif wire in (FIXED_32, FIXED_64):
            end = value + (4 if wire == FIXED_32 else 8)
        else:
            raise ValueError("is no ONNX model")
        if end > stop or not 8 <= tag < 2**32:
            raise ValueError("is no whole ONNX model")
        yield tag >> 3, wire, at, value, end
        at = end


def varint(data: bytes, at: int, stop: int) -> tuple[int, int]:
    """An integer of seven bits a byte, the last without its high bit, and where it stops. Raises as `fields`."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= stop:
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("is no whole ONNX model")


def integers(data: bytes, wire: int, at: int, end: int) -> list[int]:
    """The values of a repeated integer's field: one, or several packed into it. Raises as `fields`."""
    values = []
    while wire in (VARINT, BYTES) and at < end:
        value, at = varint(data, at, end)
        values.append(value)
    return values


def message(number: int, content: bytes) -> bytes:
    """A field that holds a message or a text."""
    return _digits(number << 3 | BYTES) + _digits(len(content)) + content


def integer(number: int, value: int) -> bytes:
    """A field that holds an integer of 0 or more."""
    return _digits(number << 3 | VARINT) + _digits(value)


def _digits(value: int) -> bytes:
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])
