"""Reads a landscape from a picture by synthesis: renders every landscape and takes the one that is nearest.

Knows nothing of requests, scenes or networks.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..world.landscapes import GROUND_SHARE, PAINTS, SUBJECTS, Landscape
from ..world.render import render
from ..world.scenes import PictureSize
from .masks import Mask, box_sums
from .picture_reader import MAX_COLOUR_DISTANCE, Pixels, to_array

MOST_READ_SHIFT_PX = 10
"""The largest offset of a subject that is found: the world's and a margin of 2 pixels."""
SHIFT_STEP_PX = 0.5
TOLERANCE_PX = 1
"""The largest offset of an edge, along each axis, that is no difference."""
MIN_WRONG_PX = 3
"""The side of the smallest square of wrong pixels that is a fault."""
HALF_WIDTH_PX = 32
"""Half the width of the window, around the subject, in which landscapes are compared at first."""
ABOVE_GROUND_PX = 56
BELOW_GROUND_PX = 12
"""The rows of that window. Sun and moon are above it."""
WINDOW_STEP_PX = 2
"""The distance of the pixels of that window that are compared."""


def read_landscape(picture: Image.Image | NDArray[np.uint8]) -> Landscape | None:
    """The landscape that the picture shows; None where it shows anything else, or more."""
    pixels = to_array(picture)
    landscape = nearest_landscape(pixels)
    return None if wrong_pixels(pixels, landscape).any() else landscape


def nearest_landscape(pixels: Pixels) -> Landscape:
    """The landscape of the picture's size whose rendering is nearest."""
    size_px = pixels.shape[1], pixels.shape[0]
    smooth = _smooth(pixels)
    shifts = range(-MOST_READ_SHIFT_PX, MOST_READ_SHIFT_PX + 1)
    windows = np.stack([_window(smooth, shift) for shift in shifts])
    landscapes, templates = _templates(size_px)
    errors = (windows**2).sum(-1)[:, None] + (templates**2).sum(-1) - 2 * windows @ templates.T
    row, kind = np.unravel_index(int(errors.argmin()), errors.shape)
    nearest = [replace(landscapes[kind], shift_px=shifts[row] + k * SHIFT_STEP_PX) for k in (-1, 0, 1)]
    return min(nearest, key=lambda landscape: float(((smooth - _rendered(landscape)) ** 2).sum()))


def wrong_pixels(pixels: Pixels, landscape: Landscape) -> Mask:
    """The pixels, of a picture of the landscape's size, that differ from its rendering, in squares of MIN_WRONG_PX or more.

    A pixel differs if its colour is far from all colours within TOLERANCE_PX, at half steps. Both pictures are smoothed.
    """
    smooth, rendered = _smooth(pixels), _rendered(landscape)
    height, width = smooth.shape[:2]
    fine = _with_midpoints(np.pad(rendered, [(TOLERANCE_PX, TOLERANCE_PX)] * 2 + [(0, 0)], mode="edge"))
    wrong = np.ones((height, width), np.bool_)
    for y, x in product(range(4 * TOLERANCE_PX + 1), repeat=2):
        difference = smooth - fine[y : y + 2 * height : 2, x : x + 2 * width : 2]
        wrong &= np.einsum("yxc,yxc->yx", difference, difference) > MAX_COLOUR_DISTANCE**2
    centres = box_sums(wrong, MIN_WRONG_PX) == MIN_WRONG_PX**2
    squares: Mask = box_sums(centres, MIN_WRONG_PX) > 0
    return squares


def _with_midpoints(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The pixels and the means between neighbours, (2 height - 1, 2 width - 1, 3)."""
    twice = np.repeat(np.repeat(pixels, 2, 0), 2, 1) / 4
    return (twice[1:, 1:] + twice[1:, :-1] + twice[:-1, 1:] + twice[:-1, :-1]).astype(np.float32)


@lru_cache(maxsize=8)
def _templates(size_px: PictureSize) -> tuple[tuple[Landscape, ...], NDArray[np.float32]]:
    """Every kind of landscape with its subject in the middle, and its window."""
    landscapes = tuple(
        Landscape(subject=subject, colour=colour, is_night=is_night, shift_px=0.0, size_px=size_px)
        for subject, colour, is_night in product(SUBJECTS, PAINTS, (False, True))
    )
    return landscapes, np.stack([_window(_rendered(landscape), 0) for landscape in landscapes])


def _window(smooth: NDArray[np.float32], shift_px: int) -> NDArray[np.float32]:
    """The pixels around a subject at a shift, as one row."""
    height, width = smooth.shape[:2]
    ground, middle = round(GROUND_SHARE * height), width // 2 + shift_px
    rows = slice(ground - ABOVE_GROUND_PX, ground + BELOW_GROUND_PX, WINDOW_STEP_PX)
    return smooth[rows, middle - HALF_WIDTH_PX : middle + HALF_WIDTH_PX : WINDOW_STEP_PX].ravel()


@lru_cache(maxsize=64)
def _rendered(landscape: Landscape) -> NDArray[np.float32]:
    return _smooth(np.asarray(render(landscape), np.float32))


def _smooth(pixels: NDArray[Any]) -> NDArray[np.float32]:
    return (box_sums(pixels, 3) / 9).astype(np.float32)
