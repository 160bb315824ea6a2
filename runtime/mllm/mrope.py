"""M-RoPE: the language model's positions of text and pictures on three axes, and its rotary tables.

Qwen2.5-VL's (transformers/models/qwen2_5_vl). Grids are counted in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..rope import Grid, Rotary, image_positions, rope_frequencies


def mrope_tables(positions: NDArray[np.int64], head_dim: int, theta: float, section: Sequence[int]) -> Rotary:
    """The language model's tables (Qwen2.5-VL, transformers/models/qwen2_5_vl).

    Pair k takes its position from the axis whose section holds k, and rotates columns k and k + Dh/2.
    positions: (3, T): time, height, width. section: pairs per axis, summing to Dh/2. Returns tables of (T, Dh) float32:
    here the second half repeats the first.
    """
    axes = np.repeat(np.arange(len(section)), section)
    # Rounded to float32 at each step as the original does: at position 1000 that moves an angle by up to 6e-5.
    angles = positions[axes].T.astype(np.float32) * rope_frequencies(head_dim, theta).astype(np.float32)
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
