"""Rounds a Linear's weight to 8 or 4 bits, and smooths its inputs. Numpy only: knows no graphs, files or schemes.

A weight here is (K, N) float32: K inputs, N outputs, the transpose of what a checkpoint stores. A block divides K.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...runtime.backends.machine_limits import usable_cores

Floats = NDArray[np.float32]
Codes = NDArray[np.int8] | NDArray[np.uint8]

LARGEST_8 = np.float32(127)
LARGEST_4 = np.float32(15)
RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""The parts of a block's range that the 16 steps may span; values outside are clipped."""
STRENGTHS = (0.25, 0.5, 0.75)
PIECE_VALUES = 1 << 19
"""2 MB of float32."""
MOST_SMOOTHED_ERROR = 0.8
"""Smoothing costs a product in the graph: it is used where it leaves less than this part of the error."""


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A rounded weight.

    codes: (K, N) int8, or uint8 up to 15 where there are zero points.
    scales: (K / block, N) float32, or (N,) where a whole column shares one.
    zero_points: shaped like the scales, uint8 up to 15.
    """

    codes: Codes
    scales: Floats
    zero_points: NDArray[np.uint8] | None = None

    def values(self) -> Floats:
        """(K, N): the dequantized weight."""
        scales = self.scales.reshape(-1, self.scales.shape[-1])
        codes = _blocks(self.codes.astype(np.float32), len(self.codes) // len(scales))
        zero = np.float32(0) if self.zero_points is None else self.zero_points[:, None].astype(np.float32)
        restored: Floats = ((codes - zero) * scales[:, None]).reshape(self.codes.shape)
        return restored


def round_columns(weight: Floats) -> Rounded:
    """Round to int8, with a scale for each output."""
    rounded = round_in_blocks(weight, len(weight))
    return Rounded(codes=rounded.codes, scales=rounded.scales[0])


def round_in_blocks(weight: Floats, block: int) -> Rounded:
    """Round to int8, with a scale for each `block` inputs of an output."""
    blocks = _blocks(weight, block)
    scales = _or_one(np.abs(blocks).max(axis=1) / LARGEST_8)
    codes = np.rint(blocks / scales[:, None]).astype(np.int8).reshape(weight.shape)
    return Rounded(codes=codes, scales=scales)


def round_to_4_bits(weight: Floats, block: int, importance: Floats | None = None) -> Rounded:
    """Round to 4 bits, with a scale and a zero point for each block; their squared error is never above plain rounding's.

    The search clips the block's range by RATIOS, rounds, and fits the scale to the codes (least squares).
    importance: (K,), the weight of each input's error, such as the input's mean square; 1 by default.
    """
    blocks = _blocks(weight, block)
    counts = np.ones(len(weight), np.float32) if importance is None else importance.astype(np.float32)
    counts = counts.reshape(-1, block, 1) + np.float32(1e-6) * max(counts.max(), np.float32(1e-20))
    best = scales, zeros = _range_of(blocks, 1.0)
    least = _error(blocks, counts, scales, zeros)
    for scales, zeros in _candidates(blocks, counts):
        error = _error(blocks, counts, scales, zeros)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better, scales, best[0]), np.where(better, zeros, best[1])
    codes = codes_4(blocks, best[0][:, None], best[1][:, None]).astype(np.uint8).reshape(weight.shape)
    return Rounded(codes=codes, scales=best[0], zero_points=best[1].astype(np.uint8))


def pack_4_bits(codes: Codes) -> NDArray[np.uint8]:
    """Pack two codes into a byte, the first in the low half, as ONNX stores 4-bit tensors; an odd last one is followed by 0."""
    flat = np.ravel(codes).astype(np.uint8)
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


def _candidates(blocks: Floats, counts: Floats) -> Iterator[tuple[Floats, Floats]]:
    """Scales and zero points to try."""
    for ratio in RATIOS:
        scales, zeros = _range_of(blocks, ratio)
        steps = codes_4(blocks, scales[:, None], zeros[:, None]) - zeros[:, None]
        below = (counts * steps**2).sum(axis=1)
        fitted = (counts * steps * blocks).sum(axis=1) / np.where(below == 0, 1, below)
        yield np.where(fitted > 0, fitted, scales).astype(np.float32), zeros


def _range_of(blocks: Floats, ratio: float) -> tuple[Floats, Floats]:
    """Scales and zero points whose 16 steps span `ratio` of each block's range. Zero is always one of the steps."""
    low = np.minimum(blocks.min(axis=1), 0) * np.float32(ratio)
    high = np.maximum(blocks.max(axis=1), 0) * np.float32(ratio)
    scales = _or_one((high - low) / LARGEST_4)
    return scales, np.clip(np.rint(-low / scales), 0, LARGEST_4)


def codes_4(values: Floats, scales: Floats, zeros: Floats) -> Floats:
    """The 4-bit codes of values, as floats; scales and zero points broadcast against them."""
    codes: Floats = np.clip(np.rint(values / scales) + zeros, 0, LARGEST_4)
    return codes


def _error(blocks: Floats, counts: Floats, scales: Floats, zeros: Floats) -> Floats:
    restored = (codes_4(blocks, scales[:, None], zeros[:, None]) - zeros[:, None]) * scales[:, None]
    error: Floats = (counts * (restored - blocks) ** 2).sum(axis=1)
    return error


def _or_one(scales: Floats) -> Floats:
    """The scales, with 1 for blocks of zeros."""
    return np.where(scales == 0, np.float32(1), scales)


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
    zeros = [part.zero_points for part in parts if part.zero_points is not None]
    return Rounded(
        codes=np.concatenate([part.codes for part in parts], axis=1),
        scales=np.concatenate([part.scales for part in parts], axis=-1),
        zero_points=np.concatenate(zeros, axis=1) if zeros else None,
    )
