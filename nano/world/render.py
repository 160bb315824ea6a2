"""Renders scenes and landscapes to antialiased pictures. Knows nothing of words or of how scenes are sampled."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .landscapes import Landscape, elements
from .scenes import BAR_PX, COLOURS, SQUARE, PictureSize, Scene, Thing, dented_outline, hollow_part, outline

OVERSAMPLING = 4
"""Pictures are drawn this much finer and averaged."""


def render(scene: Scene | Landscape) -> Image.Image:
    """The scene as an RGB picture of its size."""
    picture = Image.new("RGB", _oversampled(scene.size_px), COLOURS[scene.background])
    draw = ImageDraw.Draw(picture)
    if isinstance(scene, Landscape):
        for element in elements(scene):
            points = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in element.points]
            (draw.ellipse if element.is_ellipse else draw.polygon)(points, fill=COLOURS[element.colour])
    else:
        for thing in scene.things:
            draw_thing(draw, thing, COLOURS[thing.colour])
            if thing.style:
                picture.paste(COLOURS[scene.background], mask=hollow_mask(thing, picture.size))
    return picture.reduce(OVERSAMPLING)


def thing_mask(thing: Thing, size_px: PictureSize = SQUARE) -> np.ndarray:
    """The pixels that the thing covers, hollow parts included: (height, width) bool."""
    picture = Image.new("L", _oversampled(size_px), 0)
    draw_thing(ImageDraw.Draw(picture), thing, 255)
    return np.asarray(picture.reduce(OVERSAMPLING)) > 127


def hollow_mask(thing: Thing, size: PictureSize, scale: int = OVERSAMPLING) -> Image.Image:
    """The mask of the background that shows through a styled thing: 255 there, 0 elsewhere. size: of the mask, in dots."""
    mask = Image.new("L", size, 0)
    draw_thing(ImageDraw.Draw(mask), hollow_part(thing), 255, scale)
    if thing.style != "striped":
        return mask
    heights = np.abs((np.arange(size[1]) + 0.5) / scale - thing.y) / BAR_PX
    is_gap = (heights > 0.5) & (heights < 1.5)  # on both sides of the bar across the middle
    return Image.fromarray(np.asarray(mask) * is_gap[:, None].astype(np.uint8))


def _oversampled(size_px: PictureSize) -> PictureSize:
    return size_px[0] * OVERSAMPLING, size_px[1] * OVERSAMPLING


def draw_thing(
    draw: ImageDraw.ImageDraw, thing: Thing, colour: int | tuple[int, int, int], scale: int = OVERSAMPLING
) -> None:
    """Draw the thing without antialiasing on a picture of `scale` x `scale` dots a pixel."""
    x, y, radius = thing.x * scale, thing.y * scale, thing.radius * scale
    if thing.dents:
        draw.polygon([(x + dx * scale, y + dy * scale) for dx, dy in dented_outline(thing)], fill=colour)
    elif thing.shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    else:
        draw.polygon([(x + dx, y + dy) for dx, dy in outline(thing.shape, radius)], fill=colour)
