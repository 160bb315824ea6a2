"""Reads a scene from a picture of nano's world, by image analysis alone.

Every pixel gets the palette's nearest colour. Each colour's regions, eroded, are the cores of things. The mixture of a thing's
colour and the background's gives its outline to a fraction of a pixel, and its shape is the one of the world's that covers it
best. A thing that no plain shape covers is filled, to find its shape, and gets the style that covers it best. Whatever this
leaves unexplained is a fault. Knows nothing of requests, landscapes or networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..world.render import draw_thing, hollow_mask
from ..world.scenes import COLOURS, SHAPES, SIDE_PX, SIZES_PX, SQUARE, STYLES, PictureSize, Thing
from .masks import Mask, box_sums, connected_components, dilate, erode, filled

Pixels = NDArray[np.float32]

COLOUR_NAMES = tuple(COLOURS)
PALETTE = np.array(list(COLOURS.values()), np.float32)
MAX_COLOUR_DISTANCE = 40.0
"""The largest RGB distance at which two colours count as equal. The palette's closest two are 85 apart."""
MAX_BACKGROUND_RMS = 12.0
"""The largest root mean square distance of the background from its median."""
MIN_CORE_PX = 20
MIN_HOLE_PX = 10
"""The smallest hole, or all holes together, that makes a region's cores one thing."""
MIN_STRAY_PX = 10
MIN_PURE_SHARE = 0.25
"""The smallest share of a colour's pixels that are close to it, in a picture with bands or bars of that colour."""
REACH_PX = 8
"""The largest distance of a thing's pixels from its core: the points of a star."""
LINK_PX = 3
"""The largest distance from their cores of the pixels that join cores around a hole."""
OVERSAMPLING = 4
"""Outlines are compared on a grid this much finer than the pixels."""
MAX_MEAN_DEVIATION = (0.35, 0.02)
"""The largest mean deviation of an outline from the world's: the sum of a constant in pixels and a fraction of the radius."""
MAX_THICKNESS_PX = 2.75
"""The side of the largest square that may fit into the difference between a thing and its shape."""
ACCEPTED_RADII_PX = {"small": (9.5, 15.5), "large": (17.5, 23.5)}
"""Radii that count as each size: the world's and a margin of 1.5 pixels."""
MAX_FAULTS = 4
"""Further faults are only counted: noise has hundreds."""
UNIT_MEASURES = {
    "circle": (3.1416, 6.2832),
    "square": (3.0976, 7.04),
    "triangle": (2.1954, 6.7550),
    "star": (2.2923, 8.8835),
}
"""Area and perimeter of each shape at radius 1."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The content of a picture.

    background: its colour, "" if it is none of the palette.
    things: with "" for a size, shape or colour that is none of the world's.
    faults: descriptions of everything that no picture of the world has; empty for a clean picture.
    size_px: width and height.
    """

    background: str
    things: tuple[Thing, ...]
    faults: tuple[str, ...]
    size_px: PictureSize = SQUARE


class _Core(NamedTuple):
    """The inner pixels of a thing (solid), and these with the holes that it encloses (whole)."""

    solid: Mask
    whole: Mask


class _Fit(NamedTuple):
    """The shape that covers a mask best, its mean deviation in pixels, and whether it deviates too much locally."""

    thing: Thing
    deviation_px: float
    is_too_thick: bool

    @property
    def is_good(self) -> bool:
        limit = MAX_MEAN_DEVIATION[0] + MAX_MEAN_DEVIATION[1] * self.thing.radius
        return not self.is_too_thick and self.deviation_px <= limit


def read_picture(picture: Image.Image | NDArray[np.uint8]) -> Reading:
    """Read a picture. A size that is none of the world's is resized to 128 x 128."""
    pixels = to_array(picture)
    labels = nearest_colours(pixels)
    background_label = int(np.bincount(labels.ravel(), minlength=len(COLOUR_NAMES)).argmax())
    background_rgb = np.median(pixels[labels == background_label], axis=0)
    cores = _all_cores(pixels, labels, background_label)
    thing_rgbs = [np.median(pixels[core.solid], axis=0) for core in cores]
    territories = _territories(cores, labels.shape)
    pairs = [
        _read_thing(pixels, territory, background_rgb, rgb)
        for territory, rgb in zip(territories, thing_rgbs, strict=True)
    ]
    things = tuple(thing for thing, _ in pairs)
    faults = [fault for _, fault in pairs if fault]
    background = colour_name(background_rgb)
    if not background:
        faults.append("the background's colour is none of the palette")
    faults += _stray_faults(pixels, background_rgb, thing_rgbs, things, territories)
    if len(faults) > MAX_FAULTS:
        faults = [*faults[:MAX_FAULTS], f"and {len(faults) - MAX_FAULTS} faults more"]
    size_px = labels.shape[1], labels.shape[0]
    return Reading(background=background, things=things, faults=tuple(faults), size_px=size_px)


def to_array(picture: Image.Image | NDArray[np.uint8]) -> Pixels:
    """The picture in one of the world's sizes, (height, width, 3) float32 from 0 to 255."""
    image = (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).convert("RGB")
    if image.size not in SIZES_PX:
        image = image.resize(SQUARE, Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def nearest_colours(pixels: Pixels, palette: NDArray[np.float32] = PALETTE) -> NDArray[np.intp]:
    """The index of the palette's nearest colour for each pixel."""
    squares: NDArray[np.float32] = (palette**2).sum(-1) - 2 * pixels @ palette.T
    nearest: NDArray[np.intp] = squares.argmin(-1)
    return nearest


def colour_name(colour: NDArray[Any]) -> str:
    """The palette's name of an RGB colour, "" if it is far from all."""
    distances = np.linalg.norm(PALETTE - colour, axis=-1)
    return COLOUR_NAMES[int(distances.argmin())] if distances.min() <= MAX_COLOUR_DISTANCE else ""


def _all_cores(pixels: Pixels, labels: NDArray[np.intp], background_label: int) -> list[_Core]:
    hollow = list(_hollow_cores(pixels, labels, background_label))
    free = ~np.logical_or.reduce([np.zeros_like(labels, np.bool_), *(core.whole for core in hollow)])
    return [*hollow, *(_Core(core, core) for core in _cores(labels, background_label, free))]


def _cores(labels: NDArray[np.intp], background_label: int, free: Mask) -> Iterator[Mask]:
    """The inner part of every thing. Mixed pixels at edges may look like a third colour but are too thin for a core."""
    for label in np.unique(labels):
        if label != background_label:
            inner = (box_sums(labels == label, 3) >= 8) & free
            yield from (core for core in connected_components(inner) if core.sum() >= MIN_CORE_PX)


def _hollow_cores(pixels: Pixels, labels: NDArray[np.intp], background_label: int) -> Iterator[_Core]:
    """The cores of unbroken regions that enclose holes: bands, with bars.

    They are thin, so mixed pixels count among the nearest colour that is present, and the colour is that of the purest half.
    """
    distances = np.linalg.norm(pixels - PALETTE[labels], axis=-1)
    pure, every = (
        np.bincount(labels[distances <= limit], minlength=len(COLOUR_NAMES)) for limit in (MAX_COLOUR_DISTANCE, np.inf)
    )
    present = np.flatnonzero((pure >= MIN_CORE_PX) & (pure >= MIN_PURE_SHARE * every))
    if background_label not in present:
        return
    labels = present[nearest_colours(pixels, PALETTE[present])]
    for label in present:
        region = labels == label
        inner = box_sums(region, 3) >= 8
        if label == background_label or inner.sum() < MIN_CORE_PX:
            continue
        for part in connected_components(region & dilate(inner, LINK_PX)):
            solid, whole = part & inner, filled(part)
            if solid.sum() >= MIN_CORE_PX and whole.sum() - part.sum() >= MIN_HOLE_PX:
                yield _Core(solid & (distances <= np.median(distances[solid])), solid | (whole & ~part))


def _territories(cores: list[_Core], shape: tuple[int, ...]) -> list[Mask]:
    """The pixels within reach of each core that are nearer to it than to the others. A core in another's hole keeps its own."""
    owners = np.zeros(shape, np.int64)
    for number, core in enumerate(cores, 1):
        owners[core.whole] = number
    for number, core in enumerate(cores, 1):
        owners[core.solid] = number
    for _ in range(REACH_PX):
        before = owners.copy()
        for number in range(1, len(cores) + 1):
            owners[dilate(before == number, 1) & (owners == 0)] = number
    return [owners == number for number in range(1, len(cores) + 1)]


def _read_thing(pixels: Pixels, territory: Mask, background_rgb: NDArray[Any], rgb: NDArray[Any]) -> tuple[Thing, str]:
    """The thing in a territory, and its fault or ""."""
    rows, columns = (np.flatnonzero(territory.any(axis)) for axis in (1, 0))
    crop = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    direction = (rgb - background_rgb) / max(1.0, float((rgb - background_rgb) @ (rgb - background_rgb)))
    alpha = np.where(territory[crop], (pixels[crop] - background_rgb) @ direction, 0).astype(np.float32)
    fine = Image.fromarray(np.clip(alpha, 0, 1)).resize(
        (alpha.shape[1] * OVERSAMPLING, alpha.shape[0] * OVERSAMPLING), Image.Resampling.BICUBIC
    )
    mask = np.asarray(fine) > 0.5
    fit = _fit_shape(mask)
    if not fit.is_good and (styled := _fit_style(mask)):
        fit = styled
    thing = replace(
        fit.thing, x=fit.thing.x + float(columns[0]), y=fit.thing.y + float(rows[0]), colour=colour_name(rgb)
    )
    where = f"at ({thing.x:.0f}, {thing.y:.0f})"
    if not thing.colour:
        return thing, f"the colour of the thing {where} is none of the palette"
    if not fit.is_good:
        return replace(thing, shape="", style=""), f"the {thing.colour} thing {where} is none of the shapes"
    return thing, "" if thing.size else f"the {thing.shape} {where} is neither small nor large"


def _fit_shape(fine: Mask) -> _Fit:
    """The plain shape that covers an oversampled mask best."""
    ys, xs = np.nonzero(fine)
    area = max(len(xs), 1) / OVERSAMPLING**2
    x, y = ((float(axis.mean()) + 0.5) / OVERSAMPLING if len(axis) else 0.0 for axis in (xs, ys))
    best: tuple[float, Thing, Mask] | None = None
    for shape in SHAPES:
        radius = (area / UNIT_MEASURES[shape][0]) ** 0.5
        size = next((size for size, (low, high) in ACCEPTED_RADII_PX.items() if low <= radius <= high), "")
        drop = 0.2 * radius if shape == "triangle" else 0.0
        thing = Thing(shape=shape, colour="", size=size, x=x, y=y - drop, radius=radius)
        difference = fine ^ silhouette(thing, fine.shape[1], fine.shape[0])
        if best is None or difference.sum() < best[0]:
            best = float(difference.sum()), thing, difference
    assert best is not None
    area_difference, thing, difference = best
    deviation_px = area_difference / OVERSAMPLING**2 / (UNIT_MEASURES[thing.shape][1] * thing.radius)
    return _Fit(thing, deviation_px, _is_too_thick(difference))


def _fit_style(fine: Mask) -> _Fit | None:
    """The styled thing that covers an oversampled mask best; None where the filled mask is no large shape."""
    outer = _fit_shape(filled(fine))
    if not outer.is_good or outer.thing.size != "large":
        return None
    fits = []
    for style in STYLES[1:]:
        thing = replace(outer.thing, style=style)
        mask = solid_mask(thing, fine.shape[1], fine.shape[0])
        difference = fine ^ mask
        fits.append(_Fit(thing, float(difference.sum()) / OVERSAMPLING / _edge_dots(mask), _is_too_thick(difference)))
    return min(fits, key=lambda fit: fit.deviation_px)


def _edge_dots(mask: Mask) -> float:
    """The number of dots along the mask's edges."""
    horizontal, vertical = ((mask[1:] != mask[:-1]).sum(), (mask[:, 1:] != mask[:, :-1]).sum())
    return max(1.0, float(horizontal + vertical))


def _is_too_thick(difference: Mask) -> bool:
    side = int(MAX_THICKNESS_PX * OVERSAMPLING) | 1
    return bool((box_sums(difference, side) == side**2).any())


def silhouette(thing: Thing, width: int = SIDE_PX * OVERSAMPLING, height: int = SIDE_PX * OVERSAMPLING) -> Mask:
    """The oversampled pixels within the thing's outline, (height, width)."""
    image = Image.new("L", (width, height), 0)
    draw_thing(ImageDraw.Draw(image), thing, 255, OVERSAMPLING)
    return np.asarray(image) > 127


def solid_mask(thing: Thing, width: int = SIDE_PX * OVERSAMPLING, height: int = SIDE_PX * OVERSAMPLING) -> Mask:
    """The oversampled pixels that have the thing's colour, (height, width)."""
    mask = silhouette(thing, width, height)
    return mask & (np.asarray(hollow_mask(thing, (width, height), OVERSAMPLING)) < 128) if thing.style else mask


def _stray_faults(
    pixels: Pixels,
    background_rgb: NDArray[Any],
    thing_rgbs: list[NDArray[Any]],
    things: tuple[Thing, ...],
    territories: list[Mask],
) -> Iterator[str]:
    """Faults outside the things, or inside them; outlines and things without a shape have been judged already."""
    smooth = box_sums(pixels, 3) / 9
    height, width = pixels.shape[:2]
    excluded = np.zeros((height, width), np.bool_)
    distance = np.linalg.norm(smooth - background_rgb, axis=-1)
    stray = distance > MAX_COLOUR_DISTANCE
    for thing, rgb, territory in zip(things, thing_rgbs, territories, strict=True):
        if not thing.shape:
            excluded |= dilate(territory, 3)
            continue
        dots = solid_mask(thing, width * OVERSAMPLING, height * OVERSAMPLING)
        inside = dots[OVERSAMPLING // 2 :: OVERSAMPLING, OVERSAMPLING // 2 :: OVERSAMPLING]
        interior = erode(inside, 2)
        edges = dilate(inside, 2 if thing.style else 3) & ~interior
        if thing.style:  # edges are everywhere, so they are checked for a third colour
            third = _third_colour(smooth, background_rgb, rgb) & edges
            stray[third] = True
            edges &= ~third
        excluded |= edges
        distance[interior] = 0
        stray[interior] = (np.linalg.norm(smooth - rgb, axis=-1) > MAX_COLOUR_DISTANCE)[interior]
    even = ~excluded & ~stray
    if (distance[even] ** 2).sum() > MAX_BACKGROUND_RMS**2 * even.sum():
        yield "the background is uneven"
    for part in connected_components(stray & ~excluded):
        if part.sum() >= MIN_STRAY_PX:
            y, x = (float(axis.mean()) for axis in np.nonzero(part))
            yield f"something that is no thing at ({x:.0f}, {y:.0f}), {part.sum()} pixels"


def _third_colour(smooth: NDArray[Any], background_rgb: NDArray[Any], rgb: NDArray[Any]) -> Mask:
    """The pixels that are no mixture of two colours."""
    difference = rgb - background_rgb
    alpha = np.clip((smooth - background_rgb) @ difference / max(1.0, float(difference @ difference)), 0, 1)
    far: Mask = np.linalg.norm(smooth - background_rgb - alpha[..., None] * difference, axis=-1) > MAX_COLOUR_DISTANCE
    return far
