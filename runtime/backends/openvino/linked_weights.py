"""Reads a graph whose weight files are links, as in a hub's cache: OpenVINO follows no link out of the graph's folder.

OpenVINO gets the graph with its weights as inputs, which then become constants over our own mapping of the files: nothing is
copied, as where OpenVINO maps the files itself. Knows protobuf's wire format, and of ONNX (onnx/onnx.proto) what a weight is:
- model, 7: graph; graph, 5: initializer, 11: input
- tensor, 1: dims, 2: data_type, 8: name, 13: external_data, whose entries have 1: key, 2: value
- value info, 1: name, 2: type; type, 1: tensor_type, 1: elem_type, 2: shape, 1: dim, 1: dim_value
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...bundle import Bundle
from ...dtypes import DTYPES, FLOAT8
from ...files.onnx_weights import external_tensors
from ...files.onnx_wire import BYTES, fields, integer, integers, message, varint
from .library import import_openvino, openvino_core

ELEMENTS = {row.onnx: (row.openvino, 8 * row.itemsize) for row in (*DTYPES.values(), FLOAT8)} | {21: ("u4", 4), 22: ("i4", 4)}
"""OpenVINO's name of an element type, and an element's bits, by ONNX's number. Codes of 4-bit weights are stored in pairs."""


class Weight(NamedTuple):
    """A tensor of `shape`, row-major, at `offset` in the file `location`, relative to the graph's folder.

    element: a key of ELEMENTS.
    """

    name: str
    element: int
    shape: tuple[int, ...]
    location: str
    offset: int


def has_links(bundle: Bundle) -> bool:
    """Whether weight files of a bundle are links."""
    return any((bundle.path / spec.file).is_symlink() for spec in bundle.manifest.files)


def read_linked(graph: Path) -> tuple[Any, list[Any]]:
    """A graph as OpenVINO's model, and the memory that it reads, which must outlive it.

    Raises OSError, what OpenVINO raises, and ValueError for bytes that are no ONNX graph or a weight beyond the end of its file.
    """
    openvino = import_openvino()
    original = graph.read_bytes()
    content, weights = weights_as_inputs(original)
    if len(external_tensors(original)) != len(weights):  # OpenVINO would look for the others in the current folder
        raise ValueError("it has weights in files that aren't initializers, which a bundle of links doesn't allow")
    model = openvino_core().read_model(content)
    parameters = {parameter.get_friendly_name(): parameter for parameter in model.get_parameters()}
    locations = {weight.location for weight in weights}
    mapped = {location: np.memmap(graph.parent / location, np.uint8, mode="r") for location in locations}
    shared: list[Any] = []
    for weight in weights:
        values = _values(weight, mapped[weight.location])
        tensor = openvino.Tensor(values, list(weight.shape), getattr(openvino.Type, ELEMENTS[weight.element][0]))
        constant = openvino.op.Constant(tensor, shared_memory=True)
        constant.set_friendly_name(weight.name)
        parameter = parameters[weight.name]
        parameter.output(0).replace(constant.output(0))
        model.remove_parameter(parameter)
        shared += [values, tensor]
    return model, shared


def _values(weight: Weight, file: np.ndarray) -> np.ndarray:
    """The weight's bytes in its mapped file."""
    end = weight.offset - (-math.prod(weight.shape) * ELEMENTS[weight.element][1] // 8)
    if end > file.size:
        raise ValueError(f"the weight {weight.name} ends at byte {end} of {weight.location}, which has {file.size}")
    return file[weight.offset : end]


def weights_as_inputs(model: bytes) -> tuple[bytes, list[Weight]]:
    """An ONNX model whose external weights are inputs instead, and these weights. Raises ValueError for other bytes."""
    parts: list[bytes] = []
    weights: list[Weight] = []
    for number, wire, start, value, end in fields(model):
        if (number, wire) == (7, BYTES):
            graph, weights = _inputs(model[value:end])
            parts.append(message(7, graph))
        else:
            parts.append(model[start:end])
    return b"".join(parts), weights


def _inputs(graph: bytes) -> tuple[bytes, list[Weight]]:
    parts, weights = [], []
    for number, wire, start, value, end in fields(graph):
        weight = _weight(graph[value:end]) if (number, wire) == (5, BYTES) else None
        if weight is None:
            parts.append(graph[start:end])
        else:
            parts.append(message(11, _value_info(weight)))
            weights.append(weight)
    return b"".join(parts), weights


def _weight(tensor: bytes) -> Weight | None:
    """The tensor, or None where its values are in the graph itself."""
    shape: list[int] = []
    element, name = 0, ""
    data: dict[str, str] = {}
    for number, wire, _, value, end in fields(tensor):
        if number == 1:
            shape += integers(tensor, wire, value, end)
        elif number == 2:
            element = varint(tensor, value, end)[0]
        elif number == 8:
            name = tensor[value:end].decode()
        elif number == 13:
            entry = {number: tensor[at:stop].decode() for number, _, _, at, stop in fields(tensor, value, end)}
            data[entry[1]] = entry[2]
    if not data:
        return None
    if element not in ELEMENTS:
        raise ValueError(f"the weight {name} has the unknown type {element}")
    return Weight(name, element, tuple(shape), data["location"], int(data.get("offset", "0")))


def _value_info(weight: Weight) -> bytes:
    shape = b"".join(message(1, integer(1, size)) for size in weight.shape)
    tensor_type = integer(1, weight.element) + message(2, shape)
    return message(1, weight.name.encode()) + message(2, message(1, tensor_type))
