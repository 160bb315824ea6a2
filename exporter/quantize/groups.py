"""Groups of Linears that read one value: how their inputs and weights are rounded, and the tensors that replace the weights.

Reads weights; changes no graph.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from ...runtime.errors import ExportError
from ..weights.tensor_file import NewTensor
from .gptq import gptq_rounding
from .input_statistics import InputStatistics
from .linears import Linear
from .rounding import (
    Codes,
    Floats,
    Rounded,
    pack_4_bits,
    padded,
    round_by_columns,
    round_columns,
    round_in_blocks,
    round_to_4_bits,
    smoothing,
)
from .schemes import Scheme, Storage

HEADROOM = 1.1
"""Widens the calibrated range of inputs, for values outside it. In the transformer of two tiny random models the output error
was 0.018 and 0.018 with it, 0.019 and 0.020 without."""
GPTQ_COLUMNS = 1024
"""Columns rounded at a time: fewer make GPTQ's matrix products slow, more need more memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Linears that read one value, which is padded to `inputs`, divided by `divisor` and rounded with `scale`.

    statistics: of the value, without the padding; needed only for 4-bit weights.
    divisor: (K,) without the padding; None: no smoothing.
    scale: None: the value isn't rounded.
    """

    linears: tuple[Linear, ...]
    storage: Storage
    statistics: InputStatistics | None = None
    divisor: Floats | None = None
    scale: float | None = None

    @property
    def name(self) -> str:
        """The first weight's name."""
        return self.linears[0].name

    @property
    def block(self) -> int | None:
        """The number of inputs that share a scale; None: all."""
        return self.storage.block(self.linears[0].weight.shape[1])

    @property
    def padding(self) -> int:
        """The number of zeros appended to the inputs."""
        return 0 if self.block is None else -self.linears[0].weight.shape[1] % self.block

    @property
    def inputs(self) -> int:
        """K, with the padding."""
        return self.linears[0].weight.shape[1] + self.padding

    @property
    def products(self) -> tuple[tuple[Linear, ...], ...]:
        """The Linears of each product in the new graph: one for all where the value is rounded.

        ONNX Runtime (1.32) computes in 8 bits only where a single product reads a rounded value.
        """
        return (self.linears,) if self.storage.rounds_inputs else tuple((linear,) for linear in self.linears)

    def codes_shape(self, product: Sequence[Linear]) -> tuple[int, int]:
        """(K, N): a product's weight, the outputs of its Linears side by side."""
        return self.inputs, sum(linear.weight.shape[0] for linear in product)

    def scales_shape(self, product: Sequence[Linear]) -> tuple[int, ...]:
        """The shape of a product's scales, and of its zero points."""
        inputs, outputs = self.codes_shape(product)
        return (outputs,) if self.block is None else (inputs // self.block, outputs)


def make_group(
    linears: tuple[Linear, ...], storage: Storage, scheme: Scheme, statistics: Mapping[str, InputStatistics]
) -> Group:
    """The group of Linears that read the same value. statistics: by the first weight's name.

    Raises ExportError where the inputs are to be rounded and have no statistics.
    """
    inputs = statistics.get(linears[0].name)
    if not storage.rounds_inputs:
        return Group(linears=linears, storage=storage, statistics=inputs)
    if inputs is None:
        raise ExportError(
            f"{linears[0].name} did not run while drawing, so scheme {scheme.name!r} can't round its inputs"
        )
    divisor = smoothing(_side_by_side(linears), inputs.largest, inputs.mean_square)
    largest = float((inputs.largest / (1 if divisor is None else divisor)).max())
    return Group(linears=linears, storage=storage, divisor=divisor, scale=HEADROOM * largest / 127 or 1.0)


def new_tensors(group: Group) -> dict[str, NewTensor]:
    """The tensors that a group's nodes read, by name. A weight is rounded when it is written."""
    tensors: dict[str, NewTensor] = {}
    for product in group.products:
        tensors |= _weight_tensors(group, product)
    if group.divisor is not None:
        factors = 1 / group.divisor
        tensors[f"{group.name}.smooth"] = NewTensor(dtype="F32", shape=factors.shape, values=lambda: factors)
    return tensors


def _weight_tensors(group: Group, product: Sequence[Linear]) -> dict[str, NewTensor]:
    rounded = lru_cache(maxsize=1)(partial(_rounded, group, product))
    shape, whole, name = group.scales_shape(product), group.codes_shape(product), product[0].name

    def scales_written_last() -> np.ndarray:
        scales = rounded().scales
        rounded.cache_clear()
        return scales

    scales = {f"{name}.scales": NewTensor(dtype="F32", shape=shape, values=scales_written_last)}
    if group.storage.bits == 8:
        return {f"{name}.codes": NewTensor(dtype="I8", shape=whole, values=lambda: rounded().codes), **scales}
    packed = {
        f"{name}.codes": (whole, lambda: rounded().codes),
        f"{name}.zeros": (shape, lambda: _zero_points(rounded())),
    }
    return {full_name: _packed(*tensor) for full_name, tensor in packed.items()} | scales


def _packed(shape: tuple[int, ...], codes: Callable[[], Codes]) -> NewTensor:
    length = -(-math.prod(shape) // 2)
    return NewTensor(dtype="U8", shape=(length,), values=lambda: pack_4_bits(codes()))


def _zero_points(rounded: Rounded) -> Codes:
    assert rounded.zero_points is not None
    return rounded.zero_points


def _side_by_side(linears: Sequence[Linear]) -> Floats:
    return np.concatenate([linear.values() for linear in linears], axis=1)


def _rounded(group: Group, product: Sequence[Linear]) -> Rounded:
    weight = padded(_side_by_side(product), group.inputs)
    if group.divisor is not None:
        weight = weight * group.divisor[:, None]
    if group.block is None:
        return round_by_columns(round_columns, weight)
    if group.storage.bits == 8:
        return round_by_columns(partial(round_in_blocks, block=group.block), weight)
    statistics, padding = group.statistics, (0, group.padding)
    if statistics is not None and statistics.products is not None:
        rounding = gptq_rounding(np.pad(statistics.products, padding), group.block)
        return round_by_columns(rounding, weight, GPTQ_COLUMNS, threads=1)  # its matrix products take all cores themselves
    importance = None if statistics is None else np.pad(statistics.mean_square, padding)
    return round_by_columns(partial(round_to_4_bits, block=group.block, importance=importance), weight)
