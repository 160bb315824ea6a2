"""Rotary tables: the cosines and sines that attention rotates its heads by, made on the host for a whole request.

The image model's positions have three axes: (i, i, i) for text token i, (shift, row, column) for an image token
(omnigen2/models/transformers/repo.py). The tables come from the formula in float64, so no length is too long; the
original looks them up and fails at the checkpoint's axes_lens. The language model's tables (M-RoPE) are here too.
Knows nothing of pixels or latents: grids are counted in tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .guidance import sees_references

Grid = tuple[int, int]
"""Rows and columns of an image, in tokens."""


class Rotary(NamedTuple):
    """The tables of one sequence: cos and sin, each (S, Dh/2) float32 ((T, Dh) for M-RoPE)."""

    cos: NDArray[np.float32]
    sin: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RequestRotary:
    """Every table the image model needs for one request.

    image, references: for the refiners, which see one image at a time. Attention only feels differences of positions,
    and the first axis is constant within an image, so these have shift 0 and all guidance branches share them.
    text, joint: by branch, because the texts differ in length and "uncond" has no references.
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

    grids = {branch: reference_grids if sees_references(branch) else () for branch in text_tokens}
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
        [positions[:, axis, None] * _frequencies(dim, theta) for axis, dim in enumerate(axes_dim)], axis=1
    )
    return Rotary(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def mrope_tables(positions: NDArray[np.int64], head_dim: int, theta: float, section: Sequence[int]) -> Rotary:
    """The language model's tables (Qwen2.5-VL, transformers/models/qwen2_5_vl).

    Pair k takes its position from the axis whose section holds k, and rotates columns k and k + Dh/2.
    positions: (3, T): time, height, width. section: pairs per axis, summing to Dh/2. Returns tables of (T, Dh) float32:
    here the second half repeats the first.
    """
    axes = np.repeat(np.arange(len(section)), section)
    # Rounded to float32 at each step as the original does: at position 1000 that moves an angle by up to 6e-5.
    angles = positions[axes].T.astype(np.float32) * _frequencies(head_dim, theta).astype(np.float32)
    angles = np.concatenate([angles, angles], axis=1)
    return Rotary(np.cos(angles), np.sin(angles))


def text_positions(start: int, count: int) -> NDArray[np.int64]:
    """M-RoPE positions of `count` text tokens from `start` on: (3, count), the same on all axes."""
    return np.tile(np.arange(start, start + count, dtype=np.int64), (3, 1))


def chat_positions(start: int, is_image: Sequence[bool], grids: Sequence[Grid]) -> NDArray[np.int64]:
    """M-RoPE positions of text with images, (3, T), from `start` on (Qwen2.5-VL's get_rope_index).

    is_image: which of the T tokens belong to images; grids: each image's rows and columns of tokens, in order.
    An image's tokens share one time and count rows and columns from there; the text goes on after its longer side.
    """
    parts, index, remaining = [text_positions(start, 0)], 0, iter(grids)
    while index < len(is_image):
        if is_image[index]:
            grid = next(remaining)
            parts.append(np.array([[start]] * 3) + image_positions(grid).T)
            index, start = index + grid[0] * grid[1], start + max(grid)
        else:
            count = next((k for k in range(index, len(is_image)) if is_image[k]), len(is_image)) - index
            parts.append(text_positions(start, count))
            index, start = index + count, start + count
    return np.concatenate(parts, axis=1)


def _frequencies(dim: int, theta: float) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = float(theta) ** -(np.arange(0, dim, 2, dtype=np.float64) / dim)
    return frequencies
