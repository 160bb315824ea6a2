"""Reads a picture of nano's world back: its background and its things, by image analysis alone.

Every pixel gets the nearest colour of the palette; what is left of each colour after shaving its edges is the core of a
thing; the mixture of the thing's colour and the background's gives its outline to a part of a pixel; the shape is the one
of the world's four that covers it best. What these don't explain is a fault. Knows nothing of requests and of networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .render import draw_thing
from .world import COLOURS, SHAPES, SIDE_PX, Thing

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float32]

NAMES = tuple(COLOURS)
PALETTE = np.array(list(COLOURS.values()), np.float32)
FAR = 40.0
"""Two colours further apart than this, as points of RGB, are different. The palette's nearest two are 85 apart."""
UNEVEN = 12.0
"""How far the background may lie from its own median, as the root of the mean square."""
SMALLEST_CORE_PX = 20
SMALLEST_STRAY_PX = 10
REACH_PX = 8
"""How far beyond its core a thing may extend: the points of a star."""
FINER = 4
"""Outlines are compared this much finer than pixels."""
MEAN_DEVIATION = (0.35, 0.02)
"""How far, on average, an outline may lie from the world's: so many pixels, and so much of the radius."""
THICKEST_PX = 2.75
"""No square so large fits into what the picture has too much or too little."""
SIZES_PX = {"small": (9.5, 15.5), "large": (17.5, 23.5)}
"""Radii that count as a size: the world's, and a pixel and a half more on either side."""
MOST_FAULTS = 4
"""More of them are only counted: noise has hundreds."""
UNIT = {"circle": (3.1416, 6.2832), "square": (3.0976, 7.04), "triangle": (2.1954, 6.7550), "star": (2.2923, 8.8835)}
"""Area and length of outline at radius 1."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a picture shows. A thing's size, shape or colour, and the background, are "" where they can't be told.

    faults: what no picture of the world has, in words; empty for a clean picture.
    """

    background: str
    things: tuple[Thing, ...]
    faults: tuple[str, ...]


def read(picture: Image.Image | NDArray[np.uint8]) -> Reading:
    """Read a picture of any size; it is looked at in the world's."""
    pixels = pixels_of(picture)
    labels = nearest_colours(pixels)
    ground = int(np.bincount(labels.ravel(), minlength=len(NAMES)).argmax())
    paper = np.median(pixels[labels == ground], axis=0)
    cores = list(_cores(labels, ground))
    inks = [np.median(pixels[core], axis=0) for core in cores]
    territories = _territories(cores)
    found = [_thing(pixels, territory, paper, ink) for territory, ink in zip(territories, inks, strict=True)]
    faults = [fault for _, fault in found if fault]
    background = named(paper)
    if not background:
        faults.append("the background's colour is none of the palette")
    things = tuple(thing for thing, _ in found)
    faults += _strays(pixels, paper, inks, things, territories)
    if len(faults) > MOST_FAULTS:
        faults = [*faults[:MOST_FAULTS], f"and {len(faults) - MOST_FAULTS} faults more"]
    return Reading(background=background, things=things, faults=tuple(faults))


def pixels_of(picture: Image.Image | NDArray[np.uint8]) -> Pixels:
    """The picture at the world's size, (128, 128, 3) float32 from 0 to 255."""
    image = (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).convert("RGB")
    if image.size != (SIDE_PX, SIDE_PX):
        image = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def nearest_colours(pixels: Pixels) -> NDArray[np.intp]:
    """For each pixel the index of the palette's nearest colour."""
    squares: NDArray[np.float32] = (PALETTE**2).sum(-1) - 2 * pixels @ PALETTE.T
    nearest: NDArray[np.intp] = squares.argmin(-1)
    return nearest


def named(colour: NDArray[Any]) -> str:
    """The palette's name of a colour, "" if it is far from all."""
    distances = np.linalg.norm(PALETTE - colour, axis=-1)
    return NAMES[int(distances.argmin())] if distances.min() <= FAR else ""


def box_sums(values: NDArray[Any], side: int) -> NDArray[Any]:
    """For each place the sum over the square of odd `side` around it, as if the edge went on for ever."""
    padded = np.pad(values, [(side // 2 + 1, side // 2)] * 2 + [(0, 0)] * (values.ndim - 2), mode="edge")
    dtype = np.int64 if values.dtype == bool else np.float64
    sums = padded.astype(dtype).cumsum(0).cumsum(1)
    total: NDArray[Any] = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return total


def grown(mask: Mask, by_px: int) -> Mask:
    """The mask and all within so many pixels, along the axes and the diagonals."""
    wider: Mask = box_sums(mask, 2 * by_px + 1) > 0
    return wider


def shaved(mask: Mask, by_px: int) -> Mask:
    """The mask without the pixels so near to its edge."""
    return ~grown(~mask, by_px)


def components(mask: Mask) -> Iterator[Mask]:
    """The parts of a mask that hang together along the axes, from top to bottom."""
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
                parents[_root(parents, run)] = _root(parents, other)
    parts: dict[int, Mask] = {}
    for run, (y, start, end) in enumerate(runs):
        parts.setdefault(_root(parents, run), np.zeros_like(mask))[y, start:end] = True
    yield from parts.values()


def _root(parents: list[int], run: int) -> int:
    while parents[run] != run:
        parents[run] = run = parents[parents[run]]
    return run


def _cores(labels: NDArray[np.intp], ground: int) -> Iterator[Mask]:
    """The inner part of every thing. Mixed pixels at edges, which may look like a third colour, are too thin for one."""
    for label in np.unique(labels):
        if label != ground:
            inner = box_sums(labels == label, 3) >= 8
            yield from (core for core in components(inner) if core.sum() >= SMALLEST_CORE_PX)


def _territories(cores: list[Mask]) -> list[Mask]:
    """The pixels around each core that are nearer to it than to the others and within reach."""
    owners = np.zeros((SIDE_PX, SIDE_PX), np.int64)
    for number, core in enumerate(cores, 1):
        owners[core] = number
    for _ in range(REACH_PX):
        before = owners.copy()
        for number in range(1, len(cores) + 1):
            owners[grown(before == number, 1) & (owners == 0)] = number
    return [owners == number for number in range(1, len(cores) + 1)]


def _thing(pixels: Pixels, territory: Mask, paper: NDArray[Any], ink: NDArray[Any]) -> tuple[Thing, str]:
    """The thing in a territory, and what is wrong with it or ""."""
    rows, columns = (np.flatnonzero(territory.any(axis)) for axis in (1, 0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    towards = (ink - paper) / max(1.0, float((ink - paper) @ (ink - paper)))
    share = np.where(territory[crop], (pixels[crop] - paper) @ towards, 0).astype(np.float32)
    fine = Image.fromarray(np.clip(share, 0, 1)).resize(
        (share.shape[1] * FINER, share.shape[0] * FINER), Image.Resampling.BICUBIC
    )
    thing, deviation_px, too_thick = _best_shape(np.asarray(fine) > 0.5)
    thing = replace(thing, x=thing.x + float(columns[0]), y=thing.y + float(rows[0]), colour=named(ink))
    where = f"at ({thing.x:.0f}, {thing.y:.0f})"
    if not thing.colour:
        return thing, f"the colour of the thing {where} is none of the palette"
    if too_thick or deviation_px > MEAN_DEVIATION[0] + MEAN_DEVIATION[1] * thing.radius:
        return replace(thing, shape=""), f"the {thing.colour} thing {where} is none of the shapes"
    return thing, "" if thing.size else f"the {thing.shape} {where} is neither small nor large"


def _best_shape(fine: Mask) -> tuple[Thing, float, bool]:
    """The shape that covers a fine mask best, its mean deviation, and whether it deviates too much somewhere."""
    ys, xs = np.nonzero(fine)
    area = max(len(xs), 1) / FINER**2
    x, y = ((float(axis.mean()) + 0.5) / FINER if len(axis) else 0.0 for axis in (xs, ys))
    best: tuple[float, Thing, Mask] | None = None
    for shape in SHAPES:
        radius = (area / UNIT[shape][0]) ** 0.5
        size = next((size for size, (least, most) in SIZES_PX.items() if least <= radius <= most), "")
        drop = 0.2 * radius if shape == "triangle" else 0.0
        thing = Thing(shape=shape, colour="", size=size, x=x, y=y - drop, radius=radius)
        differs = fine ^ silhouette(thing, fine.shape[1], fine.shape[0])
        if best is None or differs.sum() < best[0]:
            best = float(differs.sum()), thing, differs
    assert best is not None
    different, thing, differs = best
    side = int(THICKEST_PX * FINER) | 1
    too_thick = bool((box_sums(differs, side) == side**2).any())
    return thing, different / FINER**2 / (UNIT[thing.shape][1] * thing.radius), too_thick


def silhouette(thing: Thing, width: int = SIDE_PX * FINER, height: int = SIDE_PX * FINER) -> Mask:
    """Where the thing is, (height, width), in fine pixels."""
    image = Image.new("L", (width, height), 0)
    draw_thing(ImageDraw.Draw(image), thing, 255, FINER)
    return np.asarray(image) > 127


def _strays(
    pixels: Pixels, paper: NDArray[Any], inks: list[NDArray[Any]], things: tuple[Thing, ...], territories: list[Mask]
) -> Iterator[str]:
    """What is neither an even background nor a thing. Outlines, and things without a shape, are judged already."""
    smooth = box_sums(pixels, 3) / 9
    judged = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    away = np.linalg.norm(smooth - paper, axis=-1)
    stray = away > FAR
    for thing, ink, territory in zip(things, inks, territories, strict=True):
        if not thing.shape:
            judged |= grown(territory, 3)
            continue
        inside = silhouette(thing)[FINER // 2 :: FINER, FINER // 2 :: FINER]
        deep = shaved(inside, 2)
        judged |= grown(inside, 3) & ~deep
        away[deep] = 0
        stray[deep] = (np.linalg.norm(smooth - ink, axis=-1) > FAR)[deep]
    calm = ~judged & ~stray
    if (away[calm] ** 2).sum() > UNEVEN**2 * calm.sum():
        yield "the background is uneven"
    for part in components(stray & ~judged):
        if part.sum() >= SMALLEST_STRAY_PX:
            y, x = (float(axis.mean()) for axis in np.nonzero(part))
            yield f"something that is no thing at ({x:.0f}, {y:.0f}), {part.sum()} pixels"
