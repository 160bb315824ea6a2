"""Renders scenes to antialiased pictures. Knows nothing of words or of how scenes are sampled."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .world import COLOURS, SIDE_PX, Scene, Thing, dented_outline, outline

OVERSAMPLING = 4
"""Pictures are drawn this much finer and averaged."""


def render(scene: Scene) -> Image.Image:
    """The scene as a 128x128 RGB picture."""
    side = SIDE_PX * OVERSAMPLING
    picture = Image.new("RGB", (side, side), COLOURS[scene.background])
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        draw_thing(draw, thing, COLOURS[thing.colour])
    return picture.reduce(OVERSAMPLING)


def thing_mask(thing: Thing) -> np.ndarray:
    """The pixels that the thing covers, (128, 128) bool."""
    side = SIDE_PX * OVERSAMPLING
    picture = Image.new("L", (side, side), 0)
    draw_thing(ImageDraw.Draw(picture), thing, 255)
    return np.asarray(picture.reduce(OVERSAMPLING)) > 127


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
