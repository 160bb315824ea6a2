"""Pictures as a model would give them, a little worse than rendered, and pictures that nobody may accept."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from omnigen2_rt.nano.render import mask, render
from omnigen2_rt.nano.world import COLOURS, SIDE_PX, Sampler, Scene, Thing, outline

Treatment = Callable[[Image.Image, np.random.Generator], Image.Image]


def blurred(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(0.6))


def noisy(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float64) + rng.normal(0, 6, (SIDE_PX, SIDE_PX, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def compressed(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return Image.open(file)


TREATMENTS: dict[str, Treatment] = {
    "clean": lambda picture, rng: picture,
    "blurred": blurred,
    "noisy": noisy,
    "compressed": compressed,
    "all three": lambda picture, rng: compressed(noisy(blurred(picture, rng), rng), rng),
}


class Original:
    """A picture of one thing, and what is needed to spoil it."""

    def __init__(self, shape: str, size: str, seed: int) -> None:
        sampler = Sampler(seed)
        self.thing = sampler.thing((64, 64), shape=shape, size=size)
        self.scene = Scene(background=sampler.colour(self.thing.colour), things=(self.thing,))
        self.other = sampler.colour(self.thing.colour, self.scene.background)
        self.x, self.y = round(self.thing.x), round(self.thing.y)
        self.rng = sampler.rng

    @property
    def pixels(self) -> np.ndarray:
        return np.array(render(self.scene))

    @property
    def paper(self) -> tuple[int, int, int]:
        return COLOURS[self.scene.background]

    def with_things(self, *things: Thing) -> np.ndarray:
        return np.array(render(replace(self.scene, things=things)))

    def with_corners(self, corners: list[tuple[float, float]]) -> np.ndarray:
        picture = Image.new("RGB", (4 * SIDE_PX, 4 * SIDE_PX), self.paper)
        placed = [(4 * (self.thing.x + x), 4 * (self.thing.y + y)) for x, y in corners]
        ImageDraw.Draw(picture).polygon(placed, fill=COLOURS[self.thing.colour])
        return np.array(picture.reduce(4))


def half_missing(it: Original) -> np.ndarray:
    pixels = it.pixels
    pixels[:, it.x :] = it.paper
    return pixels


def corner_missing(it: Original) -> np.ndarray:
    pixels = it.pixels
    pixels[it.y :, it.x :] = it.paper
    return pixels


def hole(it: Original) -> np.ndarray:
    pixels = it.pixels
    pixels[it.y - 3 : it.y + 3, it.x - 3 : it.x + 3] = it.paper
    return pixels


def two_coloured(it: Original) -> np.ndarray:
    pixels, right = it.pixels, mask(it.thing)
    right[:, : it.x] = False
    pixels[right] = COLOURS[it.other]
    return pixels


def wrong_colour(it: Original) -> np.ndarray:
    return it.with_things(replace(it.thing, colour=it.other))


def wrong_background(it: Original) -> np.ndarray:
    return np.array(render(replace(it.scene, background=it.other)))


def no_colour_of_the_palette(it: Original) -> np.ndarray:
    pixels = it.pixels
    pixels[mask(it.thing)] = (128, 128, 128)
    return pixels


def other_size(it: Original) -> np.ndarray:
    return it.with_things(replace(it.thing, radius=20.0 if it.thing.size == "small" else 13.0))


def size_between(it: Original) -> np.ndarray:
    return it.with_things(replace(it.thing, radius=16.5))


def merged(it: Original) -> np.ndarray:
    return it.with_things(it.thing, replace(it.thing, x=it.thing.x + it.thing.radius))


def overlapping(it: Original) -> np.ndarray:
    return it.with_things(it.thing, replace(it.thing, x=it.thing.x + it.thing.radius, colour=it.other))


def extra_thing(it: Original) -> np.ndarray:
    return it.with_things(it.thing, _in_the_corner(it, radius=12.0))


def extra_dot(it: Original) -> np.ndarray:
    return it.with_things(it.thing, _in_the_corner(it, radius=2.5))


def _in_the_corner(it: Original, radius: float) -> Thing:
    x = 18.0 if it.thing.x > 64 else 110.0
    return Thing(shape="circle", colour=it.other, size="small", x=x, y=18.0, radius=radius)


def nothing(it: Original) -> np.ndarray:
    return it.with_things()


def gradient(it: Original) -> np.ndarray:
    pixels, paper = it.pixels.astype(np.float64), ~mask(it.thing)
    towards = np.array(COLOURS[it.other]) - np.array(it.paper)
    pixels[paper] += (np.linspace(0, 1, SIDE_PX)[None, :, None] * towards).repeat(SIDE_PX, 0)[paper]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def stripe(it: Original) -> np.ndarray:
    pixels = it.pixels
    pixels[4:7] = COLOURS[it.other]
    return pixels


def blob(it: Original) -> np.ndarray:
    turns = np.linspace(0, 2 * math.pi, 60)
    waves = (0.12, 2), (0.10, 3), (0.08, 5)
    bumps = sum(size * np.sin(count * turns + it.rng.uniform(0, 2 * math.pi)) for size, count in waves)
    radii = it.thing.radius * (1 + bumps)
    return it.with_corners([(r * math.sin(t), r * math.cos(t)) for r, t in zip(radii, turns, strict=True)])


def stretched(it: Original) -> np.ndarray:
    wide = Image.fromarray(it.pixels).resize((160, SIDE_PX)).crop((it.x // 4, 0, it.x // 4 + SIDE_PX, SIDE_PX))
    return np.array(wide)


def noise(it: Original) -> np.ndarray:
    return it.rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


CORRUPTIONS: tuple[Callable[[Original], np.ndarray], ...] = (
    half_missing, corner_missing, hole, two_coloured, wrong_colour, wrong_background, no_colour_of_the_palette, other_size,
    size_between, merged, overlapping, extra_thing, extra_dot, nothing, gradient, stripe, blob, stretched, noise,
)  # fmt: skip


def without_a_point(star: Original) -> np.ndarray:
    corners = outline("star", star.thing.radius)
    return star.with_corners([*corners[:2], *corners[3:]])


def turned(it: Original) -> np.ndarray:
    around = (it.thing.x, it.thing.y)
    return np.array(Image.fromarray(it.pixels).rotate(15, Image.Resampling.BICUBIC, center=around, fillcolor=it.paper))


def upside_down(it: Original) -> np.ndarray:
    return it.pixels[::-1].copy()
