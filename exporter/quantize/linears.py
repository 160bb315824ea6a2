"""A graph's Linears: which of them are rounded, which read the same value, and what a rounded one needs stored.

Reads weights and makes the tensors that take their place; changes no graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...reference.safetensors_header import TensorLocation
from ...runtime.errors import ExportError
from ..weights.tensor_file import NewTensor, read_tensor
from .gptq import rounding_for
from .rounding import (
    Floats,
    Rounded,
    by_columns,
    pack_4_bits,
    padded,
    round_columns,
    round_in_blocks,
    round_to_4_bits,
    smoothing,
)
from .schemes import ROUNDED, Scheme, Storage

STORED_DTYPES = {ir.DataType.FLOAT: "F32", ir.DataType.FLOAT16: "F16", ir.DataType.BFLOAT16: "BF16"}

HEADROOM = 1.1
"""Other drawings than those that were seen go a little further. Tried on two tiny random models: it left 0.018 and 0.018 of error
in the transformer's output where 1 left 0.019 and 0.020."""
GPTQ_COLUMNS = 1024
"""At a time: fewer make its products of matrices slow, more need more memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InputStatistics:
    """What came into Linears while the model ran: by input (K), the largest absolute value and the mean square.

    products: (K, K), the mean of every input times every other, where it was asked for and K is not too large to keep it.
    """

    largest: Floats
    mean_square: Floats
    products: Floats | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear:
    """A product with a stored weight: the node, where the weight (out, in) lies, and its name."""

    node: ir.Node
    weight: TensorLocation
    name: str

    def values(self) -> Floats:
        """The weight, (in, out) float32."""
        return read_tensor(self.weight).astype(np.float32).T


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Linears that read one value, and what is done to it: lengthened to `inputs`, divided by `divisor`, rounded by `scale`.

    seen: what came in; divisor: (K,). Both without the padding.
    """

    linears: tuple[Linear, ...]
    storage: Storage
    seen: InputStatistics | None = None
    divisor: Floats | None = None
    scale: float | None = None

    @property
    def name(self) -> str:
        """The first weight's."""
        return self.linears[0].name

    @property
    def block(self) -> int | None:
        """How many inputs share a scale; None: all."""
        return self.storage.block(self.linears[0].weight.shape[1])

    @property
    def padding(self) -> int:
        """How many zeros the inputs are lengthened by."""
        return 0 if self.block is None else -self.linears[0].weight.shape[1] % self.block

    @property
    def inputs(self) -> int:
        """K, with the padding."""
        return self.linears[0].weight.shape[1] + self.padding

    @property
    def products(self) -> tuple[tuple[Linear, ...], ...]:
        """What is multiplied together. ONNX Runtime (1.32) computes in 8 bits only where one product reads a rounded value."""
        return (self.linears,) if self.storage.rounds_inputs else tuple((linear,) for linear in self.linears)

    def codes_shape(self, product: Sequence[Linear]) -> tuple[int, int]:
        """Of a product's weight: (K, N), the outputs of its Linears side by side."""
        return self.inputs, sum(linear.weight.shape[0] for linear in product)

    def scales_shape(self, product: Sequence[Linear]) -> tuple[int, ...]:
        """Of a product's scales, and of its zero points where it has any."""
        inputs, outputs = self.codes_shape(product)
        return (outputs,) if self.block is None else (inputs // self.block, outputs)


def find_linears(model: ir.Model) -> list[tuple[Linear, ...]]:
    """The graph's Linears whose weights may be rounded, those that read the same value together, in the graph's order."""
    found: dict[ir.Value, list[Linear]] = {}
    for linear in _linears(model):
        if any(part in linear.name for part in ROUNDED):
            value = linear.node.inputs[0]
            assert value is not None
            found.setdefault(value, []).append(linear)
    return [tuple(linears) for linears in found.values()]


def make_group(
    linears: tuple[Linear, ...], storage: Storage, scheme: Scheme, seen: Mapping[str, InputStatistics]
) -> Group:
    """What to do with Linears that read the same value. seen: what came in there, by the first weight's name.

    Raises ExportError where the inputs are to be rounded and none were seen.
    """
    inputs = seen.get(linears[0].name)
    if not storage.rounds_inputs:
        return Group(linears=linears, storage=storage, seen=inputs)
    if inputs is None:
        raise ExportError(
            f"{linears[0].name} did not run while drawing, so scheme {scheme.name!r} can't round its inputs"
        )
    divisor = smoothing(_side_by_side(linears), inputs.largest, inputs.mean_square)
    largest = float((inputs.largest / (1 if divisor is None else divisor)).max())
    return Group(linears=linears, storage=storage, divisor=divisor, scale=HEADROOM * largest / 127 or 1.0)


def new_tensors(group: Group) -> dict[str, NewTensor]:
    """What a group's nodes read, by name; a weight is rounded when its turn to be written comes."""
    tensors: dict[str, NewTensor] = {}
    for product in group.products:
        tensors |= _weight_tensors(group, product)
    if group.divisor is not None:
        factors = 1 / group.divisor
        tensors[f"{group.name}.smooth"] = NewTensor(dtype="F32", shape=factors.shape, values=lambda: factors)
    return tensors


def _linears(model: ir.Model) -> Iterator[Linear]:
    for node in model.graph:
        if node.op_type == "MatMul":
            transpose = node.inputs[1].producer() if node.inputs[1] is not None else None
            weight = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else None
        elif node.op_type == "Gemm" and len(node.inputs) == 2 and node.attributes["transB"].as_int() == 1:
            weight = node.inputs[1]
        else:
            continue
        if weight is not None and (cast := weight.producer()) is not None and cast.op_type == "Cast":
            weight = cast.inputs[0]
        stored = None if weight is None else weight.const_value
        if isinstance(stored, ir.ExternalTensor) and stored.shape.rank() == 2 and stored.dtype in STORED_DTYPES:
            yield Linear(node=node, weight=_location(stored), name=stored.name or "")


def _location(stored: ir.ExternalTensor) -> TensorLocation:
    """onnx_ir itself reads no file that has several hard links, as a bundle's weights have."""
    return TensorLocation(
        path=Path(stored.path),
        dtype=STORED_DTYPES[stored.dtype],
        shape=tuple(stored.shape.numpy()),
        offset=stored.offset or 0,
        nbytes=stored.nbytes,
    )


def _weight_tensors(group: Group, product: Sequence[Linear]) -> dict[str, NewTensor]:
    rounded = lru_cache(maxsize=1)(partial(_rounded, group, product))
    shape, whole, name = group.scales_shape(product), group.codes_shape(product), product[0].name

    def last() -> np.ndarray:
        scales = rounded().scales
        rounded.cache_clear()
        return scales

    scales = {f"{name}.scales": NewTensor(dtype="F32", shape=shape, values=last)}
    if group.storage.bits == 8:
        return {f"{name}.codes": NewTensor(dtype="I8", shape=whole, values=lambda: rounded().codes), **scales}
    codes, zeros = math.prod(whole), math.prod(shape)
    return {
        f"{name}.codes": NewTensor(dtype="U8", shape=(-(-codes // 2),), values=lambda: pack_4_bits(rounded().codes)),
        f"{name}.zeros": NewTensor(dtype="U8", shape=(-(-zeros // 2),), values=lambda: pack_4_bits(_zeros(rounded()))),
        **scales,
    }


def _zeros(rounded: Rounded) -> np.ndarray:
    assert rounded.zero_points is not None
    return rounded.zero_points


def _side_by_side(linears: Sequence[Linear]) -> Floats:
    return np.concatenate([linear.values() for linear in linears], axis=1)


def _rounded(group: Group, product: Sequence[Linear]) -> Rounded:
    weight = padded(_side_by_side(product), group.inputs)
    if group.divisor is not None:
        weight = weight * group.divisor[:, None]
    if group.block is None:
        return by_columns(round_columns, weight)
    if group.storage.bits == 8:
        return by_columns(partial(round_in_blocks, block=group.block), weight)
    seen, padding = group.seen, (0, group.padding)
    if seen is not None and seen.products is not None:
        rounding = rounding_for(np.pad(seen.products, padding), group.block)
        return by_columns(rounding, weight, GPTQ_COLUMNS, threads=1)  # its products of matrices take all cores themselves
    importance = None if seen is None else np.pad(seen.mean_square, padding)
    return by_columns(partial(round_to_4_bits, block=group.block, importance=importance), weight)
