"""Pictures with a model's small flaws, and corrupted pictures that must not be accepted."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from omnigen2_rt.nano.world.render import hollow_mask, render, thing_mask
from omnigen2_rt.nano.world.scenes import COLOURS, SIDE_PX, SQUARE, STYLES, PictureSize, Sampler, Scene, Thing, outline

Treatment = Callable[[Image.Image, np.random.Generator], Image.Image]


def blurred(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    return picture.filter(ImageFilter.GaussianBlur(0.6))


def noisy(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture, np.float64)
    pixels = pixels + rng.normal(0, 6, pixels.shape)
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


class Sample:
    """A picture of one thing that can be corrupted."""

    def __init__(self, shape: str, size: str, seed: int, style: str = "", size_px: PictureSize = SQUARE) -> None:
        sampler = Sampler(seed, size_px)
        self.thing = replace(sampler.thing((64, 64), shape=shape, size=size), style=style)
        self.scene = Scene(background=sampler.colour(self.thing.colour), things=(self.thing,), size_px=size_px)
        self.other = sampler.colour(self.thing.colour, self.scene.background)
        self.x, self.y = round(self.thing.x), round(self.thing.y)
        self.rng = sampler.rng

    @property
    def pixels(self) -> np.ndarray:
        return np.array(render(self.scene))

    @property
    def background(self) -> tuple[int, int, int]:
        return COLOURS[self.scene.background]

    def with_things(self, *things: Thing) -> np.ndarray:
        return np.array(render(replace(self.scene, things=things)))

    def with_corners(self, corners: list[tuple[float, float]]) -> np.ndarray:
        picture = Image.new("RGB", (4 * SIDE_PX, 4 * SIDE_PX), self.background)
        placed = [(4 * (self.thing.x + x), 4 * (self.thing.y + y)) for x, y in corners]
        ImageDraw.Draw(picture).polygon(placed, fill=COLOURS[self.thing.colour])
        return np.array(picture.reduce(4))


def half_missing(sample: Sample) -> np.ndarray:
    pixels = sample.pixels
    pixels[:, sample.x :] = sample.background
    return pixels


def corner_missing(sample: Sample) -> np.ndarray:
    pixels = sample.pixels
    pixels[sample.y :, sample.x :] = sample.background
    return pixels


def hole(sample: Sample) -> np.ndarray:
    pixels = sample.pixels
    pixels[sample.y - 3 : sample.y + 3, sample.x - 3 : sample.x + 3] = sample.background
    return pixels


def two_coloured(sample: Sample) -> np.ndarray:
    pixels, right = sample.pixels, thing_mask(sample.thing, sample.scene.size_px)
    right[:, : sample.x] = False
    pixels[right] = COLOURS[sample.other]
    return pixels


def wrong_colour(sample: Sample) -> np.ndarray:
    return sample.with_things(replace(sample.thing, colour=sample.other))


def wrong_background(sample: Sample) -> np.ndarray:
    return np.array(render(replace(sample.scene, background=sample.other)))


def grey_thing(sample: Sample) -> np.ndarray:
    pixels = sample.pixels
    pixels[thing_mask(sample.thing)] = (128, 128, 128)
    return pixels


def other_size(sample: Sample) -> np.ndarray:
    return sample.with_things(replace(sample.thing, radius=20.0 if sample.thing.size == "small" else 13.0))


def size_between(sample: Sample) -> np.ndarray:
    return sample.with_things(replace(sample.thing, radius=16.5))


def merged(sample: Sample) -> np.ndarray:
    return sample.with_things(sample.thing, replace(sample.thing, x=sample.thing.x + sample.thing.radius))


def overlapping(sample: Sample) -> np.ndarray:
    x = sample.thing.x + sample.thing.radius
    return sample.with_things(sample.thing, replace(sample.thing, x=x, colour=sample.other))


def extra_thing(sample: Sample) -> np.ndarray:
    return sample.with_things(sample.thing, _in_the_corner(sample, radius=12.0))


def extra_dot(sample: Sample) -> np.ndarray:
    return sample.with_things(sample.thing, _in_the_corner(sample, radius=2.5))


def _in_the_corner(sample: Sample, radius: float) -> Thing:
    x = 18.0 if sample.thing.x > 64 else 110.0
    return Thing(shape="circle", colour=sample.other, size="small", x=x, y=18.0, radius=radius)


def nothing(sample: Sample) -> np.ndarray:
    return sample.with_things()


def gradient(sample: Sample) -> np.ndarray:
    pixels, background = sample.pixels.astype(np.float64), ~thing_mask(sample.thing)
    difference = np.array(COLOURS[sample.other]) - np.array(sample.background)
    pixels[background] += (np.linspace(0, 1, SIDE_PX)[None, :, None] * difference).repeat(SIDE_PX, 0)[background]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def stripe(sample: Sample) -> np.ndarray:
    pixels = sample.pixels
    pixels[4:7] = COLOURS[sample.other]
    return pixels


def blob(sample: Sample) -> np.ndarray:
    turns = np.linspace(0, 2 * math.pi, 60)
    waves = (0.12, 2), (0.10, 3), (0.08, 5)
    bumps = sum(size * np.sin(count * turns + sample.rng.uniform(0, 2 * math.pi)) for size, count in waves)
    radii = sample.thing.radius * (1 + bumps)
    return sample.with_corners([(r * math.sin(t), r * math.cos(t)) for r, t in zip(radii, turns, strict=True)])


def stretched(sample: Sample) -> np.ndarray:
    left = sample.x // 4
    return np.array(Image.fromarray(sample.pixels).resize((160, SIDE_PX)).crop((left, 0, left + SIDE_PX, SIDE_PX)))


def noise(sample: Sample) -> np.ndarray:
    return sample.rng.integers(0, 256, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)


CORRUPTIONS: tuple[Callable[[Sample], np.ndarray], ...] = (
    half_missing, corner_missing, hole, two_coloured, wrong_colour, wrong_background, grey_thing, other_size,
    size_between, merged, overlapping, extra_thing, extra_dot, nothing, gradient, stripe, blob, stretched, noise,
)  # fmt: skip


def without_a_point(star: Sample) -> np.ndarray:
    corners = outline("star", star.thing.radius)
    return star.with_corners([*corners[:2], *corners[3:]])


def turned(sample: Sample) -> np.ndarray:
    picture, centre = Image.fromarray(sample.pixels), (sample.thing.x, sample.thing.y)
    return np.array(picture.rotate(15, Image.Resampling.BICUBIC, center=centre, fillcolor=sample.background))


def upside_down(sample: Sample) -> np.ndarray:
    return sample.pixels[::-1].copy()


def hollow(sample: Sample, style: str = "outlined") -> np.ndarray:
    """The pixels where the background shows through the thing, if it were of a style."""
    mask = hollow_mask(replace(sample.thing, style=style), sample.scene.size_px, 1)
    return np.asarray(mask) > 127


def half_filled(sample: Sample) -> np.ndarray:
    """Bars, or an interior, that are blurred into one colour between the thing's and the background's."""
    pixels = sample.pixels
    pixels[hollow(sample)] = np.mean([COLOURS[sample.thing.colour], sample.background], axis=0)
    return pixels


def filled_on_the_right(sample: Sample) -> np.ndarray:
    pixels, right = sample.pixels, hollow(sample)
    right[:, : sample.x] = False
    pixels[right] = COLOURS[sample.thing.colour]
    return pixels


def coloured_inside(sample: Sample) -> np.ndarray:
    pixels = sample.pixels
    pixels[hollow(sample, sample.thing.style)] = COLOURS[sample.other]
    return pixels


def other_style(sample: Sample) -> np.ndarray:
    style = next(style for style in STYLES[1:] if style != sample.thing.style)
    return sample.with_things(replace(sample.thing, style=style))


def plain(sample: Sample) -> np.ndarray:
    return sample.with_things(replace(sample.thing, style=""))


def small_with_a_style(sample: Sample) -> np.ndarray:
    return sample.with_things(replace(sample.thing, radius=13.0))


def torn_band(sample: Sample) -> np.ndarray:
    pixels = sample.pixels
    pixels[sample.y - 3 : sample.y + 3, sample.x :] = sample.background
    return pixels


def dot_inside(sample: Sample) -> np.ndarray:
    dot = replace(sample.thing, shape="circle", colour=sample.other, radius=3.0, style="", y=sample.thing.y + 6)
    return sample.with_things(sample.thing, dot)


STYLED_CORRUPTIONS: tuple[Callable[[Sample], np.ndarray], ...] = (
    half_filled, filled_on_the_right, coloured_inside, other_style, plain, small_with_a_style, torn_band, dot_inside,
    half_missing, corner_missing, two_coloured, wrong_colour, wrong_background, merged,
)  # fmt: skip
