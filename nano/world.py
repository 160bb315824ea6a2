"""Nano's world: one to three plain shapes on a plain background, as data. Says what may be in a picture and where.

WORLD.md states it for readers. Knows nothing of pixels or words.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

SIDE_PX = 128
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
RADII_PX = {"small": (11.0, 14.0), "large": (19.0, 22.0)}
"""Of the circle; the other shapes' sizes follow from it as `outline` says."""
JITTER_PX = 3.0
"""How far off its place a thing may be, along each axis."""
DENTS = 8
DENTS_SPREAD = 0.16
LEAST_DENTS_SPREAD = 0.12
"""Of the dents of a badly drawn thing: how many, how far they are spread, and how far at least."""
NO_SIZE_PX = (15.6, 17.4)
"""Radii of a badly drawn thing that is neither small nor large."""
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

Point = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A shape in a picture: centre and radius in pixels, x to the right and y down.

    dents: how much too far out its outline is at even angles, in parts of the distance from the centre; none if it is even.
    """

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float
    dents: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a picture shows."""

    background: str
    things: tuple[Thing, ...]


def outline(shape: str, radius: float) -> list[Point]:
    """The corners around (0, 0) of a shape other than the circle; a circle of `radius` has about the same area."""
    if shape == "square":
        half = 0.88 * radius
        return [(-half, -half), (half, -half), (half, half), (-half, half)]
    if shape == "triangle":
        return [_polar(1.3 * radius, turn / 3, drop=0.2 * radius) for turn in range(3)]
    if shape == "star":
        return [_polar((1.3, 0.6)[k % 2] * radius, k / 10) for k in range(10)]
    raise ValueError(f"shape={shape!r} has no corners; allowed are square, triangle, star")


def uneven_outline(thing: Thing) -> list[Point]:
    """The corners around (0, 0) of a thing with dents, between which they are interpolated."""
    whole = (
        [_polar(thing.radius, k / 64) for k in range(64)]
        if thing.shape == "circle"
        else outline(thing.shape, thing.radius)
    )
    ends = zip(whole, [*whole[1:], whole[0]], strict=True)
    points = np.array([np.linspace(start, end, 12, endpoint=False) for start, end in ends]).reshape(-1, 2)
    angles = np.linspace(-math.pi, math.pi, len(thing.dents), endpoint=False)
    dents = np.interp(np.arctan2(points[:, 1], points[:, 0]), angles, thing.dents, period=2 * math.pi)
    return [(float(x), float(y)) for x, y in points * (1 + dents[:, None])]


def is_badly_drawn(thing: Thing) -> bool:
    """Whether it has dents or is neither small nor large."""
    least, most = RADII_PX[thing.size]
    return bool(thing.dents) or not least <= thing.radius <= most


def _polar(distance: float, turns: float, drop: float = 0.0) -> Point:
    """A point so far from the centre, `turns` clockwise from straight up."""
    angle = 2 * math.pi * turns
    return distance * math.sin(angle), drop - distance * math.cos(angle)


def _held_out() -> frozenset[tuple[str, str, str]]:
    combinations = [c for c in itertools.product(COLOURS, SHAPES, COLOURS) if c[0] != c[2]]
    chosen = np.random.default_rng(2506_18871).permutation(len(combinations))[: len(combinations) // 10]
    return frozenset(combinations[k] for k in sorted(chosen))


HELD_OUT = _held_out()
"""(colour, shape, background): a tenth of all combinations, in no picture of the training."""


def is_held_out(scene: Scene) -> bool:
    """Whether any thing of the scene, on its background, is a held-out combination."""
    return any((thing.colour, thing.shape, scene.background) in HELD_OUT for thing in scene.things)


class Sampler:
    """Draws scenes from a seed. With `held_out` false (as in training) none holds a held-out combination."""

    def __init__(self, seed: int | np.random.SeedSequence) -> None:
        self.rng = np.random.default_rng(seed)

    def choice(self, options: Sequence[T]) -> T:
        return options[int(self.rng.integers(len(options)))]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def colour(self, *but: str) -> str:
        return self.choice([name for name in COLOURS if name not in but])

    def place(self, place: Point) -> Point:
        """A point near `place`."""
        x, y = place
        return x + self.rng.uniform(-JITTER_PX, JITTER_PX), y + self.rng.uniform(-JITTER_PX, JITTER_PX)

    def thing(self, place: Point, **fixed: str) -> Thing:
        """A thing near `place`, of any kind but for what `fixed` says of shape, colour and size."""
        size = fixed.get("size") or self.choice(tuple(RADII_PX))
        x, y = self.place(place)
        radius = float(self.rng.uniform(*RADII_PX[size]))
        shape = fixed.get("shape") or self.choice(SHAPES)
        return Thing(shape=shape, colour=fixed.get("colour") or self.colour(), size=size, x=x, y=y, radius=radius)

    def dents(self, spread: float = DENTS_SPREAD, least: float = LEAST_DENTS_SPREAD) -> tuple[float, ...]:
        """Dents that nobody takes for even, unless `spread` and `least` say otherwise."""
        while True:
            dents = self.rng.normal(0, spread, DENTS)
            if dents.std() >= least:
                return tuple(dents.tolist())

    def badly_drawn(self, thing: Thing) -> Thing:
        """The thing with dents, or neither small nor large."""
        if self.chance(0.5):
            return replace(thing, dents=self.dents())
        return replace(thing, radius=float(self.rng.uniform(*NO_SIZE_PX)))

    def one(self) -> Scene:
        """One thing near the middle."""
        return self._accepted(lambda: (self.thing(MIDDLE),))

    def held_out_one(self) -> Scene:
        """One thing near the middle, of a held-out combination."""
        colour, shape, background = self.choice(sorted(HELD_OUT))
        return Scene(background=background, things=(self.thing(MIDDLE, colour=colour, shape=shape),))

    def related(self, relation: str) -> Scene:
        """Two things that differ in shape and colour, the first left, right, above or below of the second."""
        first, second = places(relation)

        def things() -> tuple[Thing, ...]:
            a = self.thing(first)
            shape = self.choice([s for s in SHAPES if s != a.shape])
            b = self.thing(second, shape=shape, colour=self.colour(a.colour))
            return a, b

        return self._accepted(things)

    def counted(self, count: int) -> Scene:
        """`count` things of the same shape, colour and size."""

        def things() -> tuple[Thing, ...]:
            fixed = {"shape": self.choice(SHAPES), "colour": self.colour(), "size": self.choice(tuple(RADII_PX))}
            return tuple(self.thing(place, **fixed) for place in GROUPS[count])

        return self._accepted(things)

    def _accepted(self, things: Callable[[], tuple[Thing, ...]]) -> Scene:
        while True:
            drawn = things()
            scene = Scene(background=self.colour(*(thing.colour for thing in drawn)), things=drawn)
            if not is_held_out(scene):
                return scene


MIDDLE: Point = (64, 64)
GROUPS: dict[int, tuple[Point, ...]] = {1: (MIDDLE,), 2: ((33, 64), (95, 64)), 3: ((33, 40), (95, 40), (64, 92))}
"""Where one, two or three things stand."""


def places(relation: str) -> tuple[Point, Point]:
    """Where the first thing stands and where the second, of which it is left, right, above or below."""
    near, far = (64 - 31, 64 + 31)
    pairs: dict[str, tuple[Point, Point]] = {
        "left": ((near, 64), (far, 64)),
        "right": ((far, 64), (near, 64)),
        "above": ((64, near), (64, far)),
        "below": ((64, far), (64, near)),
    }
    return pairs[relation]


def relation_between(first: Thing, second: Thing) -> str:
    """How the first lies to the second, along the axis on which they are further apart."""
    dx, dy = first.x - second.x, first.y - second.y
    if abs(dx) >= abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"
