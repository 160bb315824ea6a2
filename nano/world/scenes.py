"""Nano's world: scenes of one to three plain shapes on a plain background, as data, and their random sampler.

WORLD.md describes it for readers. Knows nothing of pixels or words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

PictureSize = tuple[int, int]
"""Width and height in pixels."""
SIDE_PX = 128
SQUARE: PictureSize = (SIDE_PX, SIDE_PX)
SIZES_PX: tuple[PictureSize, ...] = (SQUARE, (192, 128), (128, 192))
"""The sizes of pictures."""
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (45, 80, 220),
    "yellow": (245, 220, 60),
    "purple": (140, 60, 180),
    "orange": (245, 140, 30),
    "white": (245, 245, 245),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star")
STYLES = ("", "outlined", "striped")
"""A thing is plain, or hollow inside a band along its outline, with bars across the hollow part if it is striped."""
BAND_PX = 4.0
BAR_PX = 6.0
"""The width of that band; the height of the bar across the middle and of the gap on each side of it."""
INRADII = {"circle": 1.0, "square": 0.88, "triangle": 0.65, "star": 0.516}
"""The distance of each shape's edges from its middle, at radius 1."""
RADII_PX = {"small": (11.0, 14.0), "large": (19.0, 22.0)}
"""Circle radii of each size; `outline` derives the other shapes' sizes from them."""
JITTER_PX = 3.0
"""The largest offset of a thing from its nominal centre, along each axis."""
DENTS = 8
DENTS_SPREAD = 0.18
MIN_DENTS_SPREAD = 0.16
"""Dents of a badly drawn thing: their number, their standard deviation, and the smallest that one thing's dents may have."""
BETWEEN_SIZES_PX = (15.6, 17.4)
"""Radii of a badly drawn thing, between small and large."""
UNSAID_SIZE = "large"
"""The size in which nano draws where a request says none. Either is right, but only one in a picture."""
OTHER_SIZE = {"small": "large", "large": "small"}
RESIZED_BY_PX = 8.0
"""The difference between a thing's radii in its two sizes."""
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

Point = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A shape in a picture.

    x, y: the centre in pixels, x to the right and y down.
    radius: in pixels.
    style: of STYLES; only large things are outlined or striped.
    dents: relative radial offsets of the outline at evenly spaced angles; empty for a clean outline.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    style: str = ""
    dents: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a picture, whose size is one of SIZES_PX."""

    background: str
    things: tuple[Thing, ...]
    size_px: PictureSize = SQUARE


def outline(shape: str, radius: float) -> list[Point]:
    """Corners around (0, 0) of a shape other than the circle, with about the area of a circle of `radius`."""
    if shape == "square":
        half = 0.88 * radius
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    if shape == "triangle":
        return [_polar(1.3 * radius, turn / 3, drop=0.2 * radius) for turn in range(3)]
    if shape == "star":
        return [_polar((1.3, 0.6)[k % 2] * radius, k / 10) for k in range(10)]
    raise ValueError(f"shape={shape!r} has no corners; allowed are square, triangle, star")


def hollow_part(thing: Thing) -> Thing:
    """The part of a thing inside its band, as a thing."""
    radius = thing.radius - BAND_PX / INRADII[thing.shape]
    drop = 0.2 * (thing.radius - radius) if thing.shape == "triangle" else 0.0  # its middle is below its centre
    return replace(thing, radius=radius, y=thing.y + drop, style="")


def dented_outline(thing: Thing) -> list[Point]:
    """Corners around (0, 0) of a thing with dents, interpolated between the dents' angles."""
    clean = (
        [_polar(thing.radius, k / 64) for k in range(64)]
        if thing.shape == "circle"
        else outline(thing.shape, thing.radius)
    )
    edges = zip(clean, [*clean[1:], clean[0]], strict=True)
    points = np.array([np.linspace(start, end, 12, endpoint=False) for start, end in edges]).reshape(-1, 2)
    angles = np.linspace(-math.pi, math.pi, len(thing.dents), endpoint=False)
    dents = np.interp(np.arctan2(points[:, 1], points[:, 0]), angles, thing.dents, period=2 * math.pi)
    return [(float(x), float(y)) for x, y in points * (1 + dents[:, None])]


def is_badly_drawn(thing: Thing) -> bool:
    """Whether it has dents or is neither small nor large."""
    low, high = RADII_PX[thing.size]
    return bool(thing.dents) or not low <= thing.radius <= high


def resized(thing: Thing) -> Thing:
    """The thing in its other size."""
    change = RESIZED_BY_PX if thing.size == "small" else -RESIZED_BY_PX
    return replace(thing, size=OTHER_SIZE[thing.size], radius=thing.radius + change)


def _polar(distance: float, turns: float, drop: float = 0.0) -> Point:
    """The point at `distance` from the centre, `turns` clockwise from straight up, moved down by `drop`."""
    angle = 2 * math.pi * turns
    return distance * math.sin(angle), drop - distance * math.cos(angle)


def _held_out() -> frozenset[tuple[str, str, str]]:
    combinations = [c for c in itertools.product(COLOURS, SHAPES, COLOURS) if c[0] != c[2]]
    chosen = np.random.default_rng(2506_18871).permutation(len(combinations))[: len(combinations) // 10]
    return frozenset(combinations[k] for k in sorted(chosen))


HELD_OUT = _held_out()
"""(colour, shape, background): a tenth of all combinations, absent from all training pictures."""


def is_held_out(scene: Scene) -> bool:
    """Whether any thing of the scene, on its background, is a held-out combination."""
    return any((thing.colour, thing.shape, scene.background) in HELD_OUT for thing in scene.things)


class Sampler:
    """Draws scenes from a seed. Only `held_out_thing` draws held-out combinations.

    size_px: of all pictures.
    """

    def __init__(self, seed: int | np.random.SeedSequence, size_px: PictureSize = SQUARE) -> None:
        self.rng = np.random.default_rng(seed)
        self.size_px = size_px

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def other(self, options: Iterable[str], *excluded: str) -> str:
        """One of the options that aren't excluded."""
        return self.choice([option for option in options if option not in excluded])

    def colour(self, *excluded: str) -> str:
        return self.other(COLOURS, *excluded)

    def jittered(self, centre: Point) -> Point:
        """A point near `centre`, a nominal one."""
        x, y = placed(centre, self.size_px)
        return x + self.rng.uniform(-JITTER_PX, JITTER_PX), y + self.rng.uniform(-JITTER_PX, JITTER_PX)

    def thing(self, centre: Point, **fixed: str) -> Thing:
        """A thing near `centre`. `fixed` may set shape, colour and size; the others are random."""
        size = fixed.get("size") or self.choice(tuple(RADII_PX))
        x, y = self.jittered(centre)
        radius = float(self.rng.uniform(*RADII_PX[size]))
        shape = fixed.get("shape") or self.choice(SHAPES)
        return Thing(shape=shape, colour=fixed.get("colour") or self.colour(), size=size, x=x, y=y, radius=radius)

    def dents(self, spread: float = DENTS_SPREAD, min_spread: float = MIN_DENTS_SPREAD) -> tuple[float, ...]:
        """Random dents; the default spreads make them clearly visible."""
        while True:
            dents = self.rng.normal(0, spread, DENTS)
            if dents.std() >= min_spread:
                return tuple(dents.tolist())

    def badly_drawn(self, thing: Thing) -> Thing:
        """The thing with dents, or with a radius between small and large."""
        if self.chance(0.5):
            return replace(thing, dents=self.dents())
        return replace(thing, radius=float(self.rng.uniform(*BETWEEN_SIZES_PX)))

    def one_thing(self, place: str = "middle", size: str = "") -> Scene:
        """One plain thing near a place; a random size by default."""
        return self._accepted(lambda: (self.thing(PLACES[place], size=size),))

    def styled(self, scene: Scene) -> Scene:
        """The scene of one or of several alike things in a random style; unchanged if they are small."""
        style = self.choice(STYLES) if scene.things[0].size == "large" else ""
        return replace(scene, things=tuple(replace(thing, style=style) for thing in scene.things))

    def held_out_thing(self) -> Scene:
        """One thing near the middle, of a held-out combination."""
        colour, shape, background = self.choice(sorted(HELD_OUT))
        things = (self.thing(MIDDLE, colour=colour, shape=shape),)
        return Scene(background=background, things=things, size_px=self.size_px)

    def two_things(self, relation: str, size: str = "") -> Scene:
        """Two things that differ in shape and colour, the first one `relation` (left, right, above, below) of the second.

        size: of both; random ones by default.
        """
        first, second = PAIR_CENTRES[relation]

        def things() -> tuple[Thing, ...]:
            a = self.thing(first, size=size)
            shape = self.other(SHAPES, a.shape)
            b = self.thing(second, shape=shape, colour=self.colour(a.colour), size=size)
            return a, b

        return self._accepted(things)

    def alike_things(self, count: int, size: str = "") -> Scene:
        """`count` things of the same shape, colour and size; a random size by default."""

        def things() -> tuple[Thing, ...]:
            fixed = {"shape": self.choice(SHAPES), "colour": self.colour(), "size": size or self.choice(tuple(RADII_PX))}
            return tuple(self.thing(centre, **fixed) for centre in GROUP_CENTRES[count])

        return self._accepted(things)

    def mixed_things(self, count: int) -> Scene:
        """`count` things of which any two may be alike, as gathered from several pictures."""
        return self._accepted(lambda: tuple(self.thing(centre) for centre in GROUP_CENTRES[count]))

    def any_scene(self) -> Scene:
        """A scene of any kind."""
        share = self.rng.random()
        if share < 0.3:
            return self.styled(self.one_thing("middle" if share < 0.18 else self.choice(tuple(PLACES))))
        if share < 0.65:
            return self.two_things(self.choice(RELATIONS))
        if share < 0.82:
            return self.styled(self.alike_things(self.choice((2, 3))))
        return self.mixed_things(self.choice((2, 3)))

    def _accepted(self, sample_things: Callable[[], tuple[Thing, ...]]) -> Scene:
        while True:
            things = sample_things()
            background = self.colour(*(thing.colour for thing in things))
            scene = Scene(background=background, things=things, size_px=self.size_px)
            if not is_held_out(scene):
                return scene


MIDDLE: Point = (64, 64)
GROUP_CENTRES: dict[int, tuple[Point, ...]] = {1: (MIDDLE,), 2: ((33, 64), (95, 64)), 3: ((33, 40), (95, 40), (64, 92))}
"""Nominal centres of a group of one, two or three things. All nominal centres are those in a square picture."""
PAIR_CENTRES: dict[str, tuple[Point, Point]] = {
    "left": ((33, 64), (95, 64)),
    "right": ((95, 64), (33, 64)),
    "above": ((64, 33), (64, 95)),
    "below": ((64, 95), (64, 33)),
}
"""Nominal centres of two unlike things, by the first thing's relation to the second."""


PLACES: dict[str, Point] = {"middle": MIDDLE, "left": (33, 64), "right": (95, 64), "top": (64, 33), "bottom": (64, 95)}
"""Nominal centres of a thing that is alone."""
ROOM_BESIDE = {"left": "right", "right": "left", "top": "below", "bottom": "above"}
"""The relation to a lonely thing, by its place, in which there is room for another one."""


def placed(centre: Point, size_px: PictureSize) -> Point:
    """A nominal centre in a picture of a size."""
    return centre[0] * size_px[0] / SIDE_PX, centre[1] * size_px[1] / SIDE_PX


def place_of(thing: Thing, size_px: PictureSize = SQUARE) -> str:
    """The place whose nominal centre is nearest."""
    return min(PLACES, key=lambda place: math.dist((thing.x, thing.y), placed(PLACES[place], size_px)))


def relation_between(first: Thing, second: Thing) -> str:
    """The first thing's relation to the second, along the axis on which their centres are further apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"
