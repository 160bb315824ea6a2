"""Rotary tables: the cosines and sines that attention rotates its heads by, computed on the host for a whole request.

The image model's positions have three axes: (i, i, i) for text token i, (shift, row, column) for an image token
(omnigen2/models/transformers/repo.py). The tables come from the formula in float64, so no length is too long; the
original looks them up and fails at the checkpoint's axes_lens. Knows nothing of pixels or latents: grids are counted in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .guidance import has_references

Grid = tuple[int, int]
"""Rows and columns of an image, in tokens."""


class Rotary(NamedTuple):
    """The tables of one sequence: cos and sin, each (S, Dh/2) float32 ((T, Dh) for M-RoPE)."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RequestRotary:
    """Every table the image model needs for one request.

    image: for the refiner of the noisy image. Attention depends on differences of positions only, and the first axis is constant
        within an image, so the shift is 0 and all guidance branches share the table.
    references: likewise, for the refiner of each reference.
    text: by branch, because the texts differ in length.
    joint: by branch; "uncond" has no references.
    """

    image: Rotary
    references: tuple[Rotary, ...]
    text: dict[str, Rotary]
    joint: dict[str, Rotary]


def request_rotary(
    text_tokens: Mapping[str, int],
    reference_grids: Sequence[Grid],
    image_grid: Grid,
    axes_dim: Sequence[int],
    theta: float,
) -> RequestRotary:
    """The tables of a request. text_tokens: by guidance branch, for the branches it will run."""

    def tables(positions: NDArray[np.int64]) -> Rotary:
        return rope_tables(positions, axes_dim, theta)

    grids = {branch: reference_grids if has_references(branch) else () for branch in text_tokens}
    return RequestRotary(
        image=tables(image_positions(image_grid)),
        references=tuple(tables(image_positions(grid)) for grid in reference_grids),
        text={branch: tables(token_positions(count)) for branch, count in text_tokens.items()},
        joint={branch: tables(position_ids(n, grids[branch], image_grid)) for branch, n in text_tokens.items()},
    )


def position_ids(text_tokens: int, reference_grids: Sequence[Grid], image_grid: Grid) -> NDArray[np.int64]:
    """The joint sequence's positions, (S, 3): text, references in order, the image.

    An image's shift is the text's length plus, for each image before it, that image's longer side.
    """
    parts, shift = [token_positions(text_tokens)], text_tokens
    for grid in (*reference_grids, image_grid):
        parts.append(image_positions(grid, shift))
        shift += max(grid)
    return np.concatenate(parts)


def token_positions(count: int) -> NDArray[np.int64]:
    """Text positions, (count, 3): (i, i, i)."""
    return np.repeat(np.arange(count, dtype=np.int64)[:, None], 3, axis=1)


def image_positions(grid: Grid, shift: int = 0) -> NDArray[np.int64]:
    """One image's positions, (rows · columns, 3): (shift, row, column), row by row."""
    rows, columns = np.indices(grid, dtype=np.int64).reshape(2, -1)
    return np.stack([np.full_like(rows, shift), rows, columns], axis=1)


def rope_tables(positions: NDArray[np.int64], axes_dim: Sequence[int], theta: float) -> Rotary:
    """The angles' cosines and sines, one column per rotated pair, axis after axis.

    positions: (S, n). axes_dim: the n axes' shares of the head, summing to Dh. Returns tables of (S, Dh/2) float32.
    """
    angles = np.concatenate(
        [positions[:, axis, None] * rope_frequencies(dim, theta) for axis, dim in enumerate(axes_dim)], axis=1
    )
    return Rotary(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def rope_frequencies(dim: int, theta: float) -> NDArray[np.float64]:
    """The angles of position 1, (dim / 2): theta^(-2k / dim)."""
    frequencies: NDArray[np.float64] = float(theta) ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)
    return frequencies
