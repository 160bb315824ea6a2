"""Rounds a Linear's weight to 8 or 4 bits, and smooths its inputs. Numpy only: knows no graphs, files or schemes.

A weight here is (K, N) float32: K inputs, N outputs, the transpose of what a checkpoint stores. A block divides K.

Scales are rounded to bfloat16 before the codes are. Float32 holds such a scale exactly, and so does float16 unless it is below
2^-17: graphs of every precision multiply by the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.machine_limits import usable_cores

Floats = NDArray[np.float32]
Codes = NDArray[np.int8] | NDArray[ml_dtypes.float8_e4m3fn]

LARGEST_8 = np.float32(127)
LEAST_4, LARGEST_4 = np.float32(-8), np.float32(7)
LARGEST_FP8 = np.float32(448)
RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""The parts of a block's largest absolute value that its end code may stand for; values beyond it are clipped."""
STRENGTHS = (0.25, 0.5, 0.75)
PIECE_VALUES = 1 << 19
"""2 MB of float32."""
MOST_SMOOTHED_ERROR = 0.8
"""Smoothing costs a product in the graph: it is used where it leaves less than this part of the error."""


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A rounded weight.

    codes: (K, N) int8, of 4 bits where they are from -8 to 7, or float8_e4m3fn.
    scales: (K / block, N) float32, or (N,) where a whole column shares one. With 4 bits they may be negative: the end that
        reaches to -8 is the one with the largest absolute value.
    """

    codes: Codes
    scales: Floats

    def values(self) -> Floats:
        """(K, N): the dequantized weight."""
        scales = self.scales.reshape(-1, self.scales.shape[-1])
        codes = _blocks(self.codes.astype(np.float32), len(self.codes) // len(scales))
        restored: Floats = (codes * scales[:, None]).reshape(self.codes.shape)
        return restored


def round_columns(weight: Floats) -> Rounded:
    """Round to int8, with a scale for each output."""
    rounded = round_in_blocks(weight, len(weight))
    return Rounded(codes=rounded.codes, scales=rounded.scales[0])


def round_in_blocks(weight: Floats, block: int) -> Rounded:
    """Round to int8, with a scale for each `block` inputs of an output."""
    blocks = _blocks(weight, block)
    scales = _usable(np.abs(blocks).max(axis=1) / LARGEST_8)
    codes = np.rint(blocks / scales[:, None]).astype(np.int8).reshape(weight.shape)
    return Rounded(codes=codes, scales=scales)


def round_to_fp8(weight: Floats) -> Rounded:
    """Round to 8-bit floats (E4M3), with a scale for each output."""
    scales = _usable(np.abs(weight).max(axis=0) / LARGEST_FP8)
    codes = np.clip(weight / scales, -LARGEST_FP8, LARGEST_FP8).astype(ml_dtypes.float8_e4m3fn)
    return Rounded(codes=codes, scales=scales)


def round_to_4_bits(weight: Floats, block: int, importance: Floats | None = None) -> Rounded:
    """Round to 4 bits, with a scale for each block; their squared error is never above plain rounding's.

    Plain rounding gives the value with the largest absolute value the code -8, so that all 16 codes are used. The search gives
    it -8 or 7, clips it by RATIOS, rounds, and fits the scale to the codes (least squares).
    importance: (K,), the weight of each input's error, such as the input's mean square; 1 by default.
    """
    blocks = _blocks(weight, block)
    counts = np.ones(len(weight), np.float32) if importance is None else importance.astype(np.float32)
    counts = counts.reshape(-1, block, 1) + np.float32(1e-6) * max(counts.max(), np.float32(1e-20))
    best = _usable(_extremes(blocks) / LEAST_4)
    least = _error(blocks, counts, best)
    for scales in _candidates(blocks, counts):
        error = _error(blocks, counts, scales)
        better = error < least
        least, best = np.where(better, error, least), np.where(better, scales, best)
    codes = codes_4(blocks, best[:, None]).astype(np.int8).reshape(weight.shape)
    return Rounded(codes=codes, scales=best)


def pack_4_bits(codes: Codes) -> NDArray[np.uint8]:
    """Pack two codes into a byte, the first in the low half, as ONNX stores 4-bit tensors; an odd last one is followed by 0."""
    flat = np.ravel(codes).astype(np.int8).view(np.uint8) & np.uint8(15)
    even = np.pad(flat, (0, flat.size % 2))
    packed: NDArray[np.uint8] = even[0::2] | (even[1::2] << np.uint8(4))
    return packed


def padded(weight: Floats, inputs: int) -> Floats:
    """The weight with rows of zeros up to `inputs`."""
    return np.pad(weight, ((0, inputs - len(weight)), (0, 0)))


def smoothing(weight: Floats, largest: Floats, mean_square: Floats) -> Floats | None:
    """(K,): divides each input and multiplies its weights before both are rounded to 8 bits; None where it saves too little.

    SmoothQuant (arXiv 2211.10438, section 4); the strength is the one that leaves the smallest expected rounding error.
    largest, mean_square: (K,), the largest absolute value and the mean square of each input.
    """
    before = _expected_error(weight, largest, mean_square)
    candidates = [
        (_expected_error(weight * s[:, None], largest / s, mean_square / s**2), s) for s in _divisors(weight, largest)
    ]
    error, divisor = min(candidates, key=lambda pair: pair[0])
    return divisor if error < MOST_SMOOTHED_ERROR * before else None


def _divisors(weight: Floats, largest: Floats) -> Iterator[Floats]:
    rows = np.abs(weight).max(axis=1)
    usable = (rows > 0) & (largest > 0)
    for strength in STRENGTHS:
        divisor = np.where(usable, largest, 1) ** strength / np.where(usable, rows, 1) ** (1 - strength)
        yield (divisor / np.exp(np.log(divisor).mean())).astype(np.float32)


def _expected_error(weight: Floats, largest: Floats, mean_square: Floats) -> float:
    """The outputs' mean square error if rounding adds noise of a twelfth of a squared step to inputs and weight."""
    step = float(largest.max()) / 127
    steps = np.abs(weight).max(axis=0).astype(np.float64) / 127
    from_inputs = step**2 / 12 * float(np.square(weight, dtype=np.float64).sum())
    from_weight = float((steps**2).sum()) / 12 * float(mean_square.sum(dtype=np.float64))
    return from_inputs + from_weight


def _candidates(blocks: Floats, counts: Floats) -> Iterator[Floats]:
    """Scales to try."""
    extremes = _extremes(blocks)
    for end in (LEAST_4, LARGEST_4):
        for ratio in RATIOS:
            scales = _usable(extremes * (np.float32(ratio) / end))
            steps = codes_4(blocks, scales[:, None])
            below = (counts * steps**2).sum(axis=1)
            fitted = (counts * steps * blocks).sum(axis=1) / np.where(below == 0, 1, below)
            yield np.where(fitted == 0, scales, _usable(fitted))


def _extremes(blocks: Floats) -> Floats:
    """The value of each block with the largest absolute value."""
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    extremes: Floats = np.where(-low > high, low, high)
    return extremes


def codes_4(values: Floats, scales: Floats) -> Floats:
    """The 4-bit codes of values, as floats; scales broadcast against them."""
    codes: Floats = np.clip(np.rint(values / scales), LEAST_4, LARGEST_4)
    return codes


def _error(blocks: Floats, counts: Floats, scales: Floats) -> Floats:
    restored = codes_4(blocks, scales[:, None]) * scales[:, None]
    error: Floats = (counts * (restored - blocks) ** 2).sum(axis=1)
    return error


def _usable(scales: Floats) -> Floats:
    """The scales in bfloat16's steps, with 1 for blocks of zeros."""
    rounded = bfloat16_steps(scales)
    return np.where(rounded == 0, np.float32(1), rounded)


def bfloat16_steps(values: Floats) -> Floats:
    """The nearest values that bfloat16 holds, as float32."""
    rounded: Floats = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    return rounded


def _blocks(weight: Floats, block: int) -> Floats:
    """(K / block, block, N)"""
    return weight.reshape(-1, block, weight.shape[1])


def round_by_columns(
    rounding: Callable[[Floats], Rounded], weight: Floats, columns: int | None = None, threads: int | None = None
) -> Rounded:
    """Apply `rounding` to `columns` columns at a time, on `threads` threads.

    By default on every core, and to PIECE_VALUES values at a time, whose intermediate results mostly fit in a core's cache.
    """
    columns = columns or max(1, PIECE_VALUES // len(weight))
    pieces = [weight[:, start : start + columns] for start in range(0, weight.shape[1], columns)]
    with ThreadPoolExecutor(threads or usable_cores()) as pool:  # numpy lets other threads run while it computes
        parts = list(pool.map(rounding, pieces))
    return Rounded(
        codes=np.concatenate([part.codes for part in parts], axis=1),
        scales=np.concatenate([part.scales for part in parts], axis=-1),
    )
