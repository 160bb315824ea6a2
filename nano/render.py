"""Scenes to pictures, antialiased. Knows nothing of words or of how scenes are drawn by lot."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from .world import COLOURS, SIDE_PX, Scene, Thing, outline, uneven_outline

FINER = 4
"""Edges are drawn this much finer and averaged."""


def render(scene: Scene) -> Image.Image:
    """The scene as a 128x128 RGB picture."""
    side = SIDE_PX * FINER
    picture = Image.new("RGB", (side, side), COLOURS[scene.background])
    draw = ImageDraw.Draw(picture)
    for thing in scene.things:
        draw_thing(draw, thing, COLOURS[thing.colour])
    return picture.reduce(FINER)


def mask(thing: Thing, grow_px: float = 0.0) -> np.ndarray:
    """Where the thing is, (128, 128) bool, its outline grown by about so many pixels."""
    side = SIDE_PX * FINER
    picture = Image.new("L", (side, side), 0)
    grown = Thing(**{**vars(thing), "radius": thing.radius + grow_px})
    draw_thing(ImageDraw.Draw(picture), grown, 255)
    return np.asarray(picture.reduce(FINER)) > 127


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, ink: int | tuple[int, int, int], finer: int = FINER) -> None:
    """The thing on a picture of `finer` dots to the pixel, without antialiasing."""
    x, y, radius = thing.x * finer, thing.y * finer, thing.radius * finer
    if thing.dents:
        draw.polygon([(x + dx * finer, y + dy * finer) for dx, dy in uneven_outline(thing)], fill=ink)
    elif thing.shape == "circle":
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
    else:
        draw.polygon([(x + dx, y + dy) for dx, dy in outline(thing.shape, radius)], fill=ink)
