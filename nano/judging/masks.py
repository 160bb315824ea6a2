"""Operations on masks of pixels: growing, shrinking, connected components, filled holes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def box_sums(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Sums over the square of odd `side` around each pixel; the border is padded with its edge values."""
    padded = np.pad(values, [(side // 2 + 1, side // 2)] * 2 + [(0, 0)] * (values.ndim - 2), mode="edge")
    dtype = np.int64 if values.dtype == bool else np.float64
    sums = padded.astype(dtype).cumsum(0).cumsum(1)
    total: NDArray[Any] = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return total


def dilate(mask: Mask, by_px: int) -> Mask:
    """The mask and all pixels within a square distance of `by_px`."""
    dilated: Mask = box_sums(mask, 2 * by_px + 1) > 0
    return dilated


def erode(mask: Mask, by_px: int) -> Mask:
    """The mask without the pixels within a square distance of `by_px` from its edge."""
    return ~dilate(~mask, by_px)


def connected_components(mask: Mask) -> Iterator[Mask]:
    """The mask's 4-connected components, from top to bottom."""
    framed = np.pad(mask, ((0, 0), (1, 1)))
    ys, edges = np.nonzero(framed[:, 1:] != framed[:, :-1])
    runs = list(zip(ys[::2].tolist(), edges[::2].tolist(), edges[1::2].tolist(), strict=True))  # row, start, end
    parents = list(range(len(runs)))
    above = 0
    for run, (y, start, end) in enumerate(runs):
        while runs[above][0] < y - 1:
            above += 1
        for other in range(above, run):
            if runs[other][0] == y - 1 and start < runs[other][2] and runs[other][1] < end:
                parents[_find_root(parents, run)] = _find_root(parents, other)
    parts: dict[int, Mask] = {}
    for run, (y, start, end) in enumerate(runs):
        root = _find_root(parents, run)
        if root not in parts:
            parts[root] = np.zeros_like(mask)
        parts[root][y, start:end] = True
    yield from parts.values()


def _find_root(parents: list[int], run: int) -> int:
    while parents[run] != run:
        parents[run] = run = parents[parents[run]]
    return run


def filled(mask: Mask) -> Mask:
    """The mask with the holes that it encloses."""
    outside = next(connected_components(np.pad(~mask, 1, constant_values=True)))
    return ~outside[1:-1, 1:-1]
