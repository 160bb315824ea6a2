"""Groups of Linears that read one value: how their inputs and weights are rounded, and the tensors that replace the weights.

Reads weights; changes no graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from ...runtime.dtypes import FLOAT8, INT8, PRECISIONS, UINT8
from ...runtime.errors import ExportError
from ..weights.tensor_file import NewTensor
from .gptq import gptq_rounding
from .input_statistics import InputStatistics
from .linears import Linear
from .rounding import (
    LARGEST_8,
    LARGEST_FP8,
    Floats,
    Rounded,
    bfloat16_steps,
    pack_4_bits,
    padded,
    round_by_columns,
    round_columns,
    round_in_blocks,
    round_to_4_bits,
    round_to_fp8,
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
        return -self.linears[0].weight.shape[1] % (self.block or self.storage.aligned_inputs)

    @property
    def inputs(self) -> int:
        """K, with the padding."""
        return self.linears[0].weight.shape[1] + self.padding

    @property
    def products(self) -> tuple[tuple[Linear, ...], ...]:
        """The Linears of each product in the new graph: one for all where codes are 8-bit integers.

        ONNX Runtime (1.32) computes in 8 bits only where a single product reads a rounded value. TensorRT for RTX (1.7) widens
        8-bit weights in blocks to 16 bits where several products read a value that it computes just before them.
        """
        return (self.linears,) if self.storage.codes == "int8" else tuple((linear,) for linear in self.linears)

    def codes_shape(self, linears: Sequence[Linear]) -> tuple[int, int]:
        """The shape of some Linears' codes: (K, N), their outputs side by side."""
        return self.inputs, sum(linear.weight.shape[0] for linear in linears)

    def scales_shape(self, linears: Sequence[Linear]) -> tuple[int, ...]:
        """The shape of some Linears' scales."""
        inputs, outputs = self.codes_shape(linears)
        return (outputs,) if self.block is None else (inputs // self.block, outputs)


def make_group(
    linears: tuple[Linear, ...], storage: Storage, scheme: Scheme, statistics: Mapping[str, InputStatistics]
) -> Group:
    """The group of Linears that read the same value. statistics: by the first weight's name.

    8-bit integers are smoothed first; 8-bit floats have steps for small and for large values.
    Raises ExportError where the inputs are to be rounded and have no statistics.
    """
    inputs = statistics.get(linears[0].name)
    if not storage.rounds_inputs:
        return Group(linears=linears, storage=storage, statistics=inputs)
    if inputs is None:
        raise ExportError(
            f"{linears[0].name} did not run while drawing, so scheme {scheme.name!r} can't round its inputs"
        )
    divisor: Floats | None = None
    if storage.codes == "int8":
        divisor = smoothing(_side_by_side(linears), inputs.largest, inputs.mean_square)
    if divisor is not None:
        divisor = np.reciprocal(bfloat16_steps(np.reciprocal(divisor)))  # every precision holds its inverse exactly
    largest = inputs.largest if divisor is None else inputs.largest / divisor
    end = LARGEST_FP8 if storage.codes == "fp8" else LARGEST_8
    scale = float(bfloat16_steps(HEADROOM * largest.max(keepdims=True) / end)[0])
    return Group(linears=linears, storage=storage, divisor=divisor, scale=scale or 1.0)


def new_tensors(group: Group, precisions: Sequence[str]) -> dict[str, NewTensor]:
    """The tensors that a group's nodes read in graphs of these precisions, by name. A weight is rounded when it is written.

    Codes serve every precision; scales and smoothing factors are written in the type of each (`<name>.scales.<precision>`).
    """
    tensors: dict[str, NewTensor] = {}
    for linears in group.products:
        tensors |= _weight_tensors(group, linears, precisions)
    if group.divisor is not None:
        factors = bfloat16_steps(np.reciprocal(group.divisor))
        for precision in precisions:
            tensors[f"{group.name}.smooth.{precision}"] = _floats(precision, factors.shape, lambda: factors)
    return tensors


def _weight_tensors(group: Group, linears: Sequence[Linear], precisions: Sequence[str]) -> dict[str, NewTensor]:
    rounded = lru_cache(maxsize=1)(partial(_rounded, group, linears))
    shape, name = group.scales_shape(linears), linears[0].name

    def codes() -> np.ndarray:
        values = rounded().codes
        return pack_4_bits(values) if group.storage.codes == "int4" else values

    def scales(is_last: bool) -> np.ndarray:
        values = rounded().scales
        if is_last:
            rounded.cache_clear()
        return values

    tensors = {f"{name}.codes": _codes(group.storage, group.codes_shape(linears), codes)}
    for precision in precisions:
        values = partial(scales, precision == precisions[-1])
        tensors[f"{name}.scales.{precision}"] = _floats(precision, shape, values)
    return tensors


def _codes(storage: Storage, shape: tuple[int, int], values: Callable[[], np.ndarray]) -> NewTensor:
    """A tensor of codes; those of 4 bits are stored in pairs."""
    if storage.codes == "int4":
        return NewTensor(dtype=UINT8.safetensors, shape=(-(-shape[0] * shape[1] // 2),), values=values)
    dtype = FLOAT8 if storage.codes == "fp8" else INT8
    return NewTensor(dtype=dtype.safetensors, shape=shape, values=values)


def _floats(precision: str, shape: tuple[int, ...], values: Callable[[], np.ndarray]) -> NewTensor:
    return NewTensor(dtype=PRECISIONS[precision].safetensors, shape=shape, values=values)


def _side_by_side(linears: Sequence[Linear]) -> Floats:
    return np.concatenate([linear.values() for linear in linears], axis=1)


def _rounded(group: Group, linears: Sequence[Linear]) -> Rounded:
    weight = padded(_side_by_side(linears), group.inputs)
    if group.divisor is not None:
        weight[: len(group.divisor)] *= group.divisor[:, None]
    if group.storage.codes == "fp8":
        return round_by_columns(round_to_fp8, weight)
    if group.block is None:
        return round_by_columns(round_columns, weight)
    if group.storage.codes == "int8":
        return round_by_columns(partial(round_in_blocks, block=group.block), weight)
    statistics, padding = group.statistics, (0, group.padding)
    if statistics is not None and statistics.products is not None:
        rounding = gptq_rounding(np.pad(statistics.products, padding), group.block)
        return round_by_columns(rounding, weight, GPTQ_COLUMNS, threads=1)  # its matrix products take all cores themselves
    importance = None if statistics is None else np.pad(statistics.mean_square, padding)
    return round_by_columns(partial(round_to_4_bits, block=group.block, importance=importance), weight)
