"""Nano's landscapes: a house, a tree, a flower or a balloon by day or at night, as data, with the parts that they are drawn from.

WORLD.md describes them for readers. Knows nothing of pixels or words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from .scenes import SQUARE, PictureSize, Point, Sampler

SUBJECTS = ("house", "tree", "flower", "balloon")
PAINTS = ("red", "yellow", "purple", "white")
"""The colours of subjects."""
SKIES = {"day": "blue", "night": "black"}
GROUND = "green"
GROUND_SHARE = 0.75
"""The distance of the ground from the top, as a share of the height."""
MOST_SHIFT_PX = 8.0
"""The largest offset of a subject from the middle, to the left or right."""


@dataclass(frozen=True, kw_only=True)
class Landscape:
    """The content of a picture of a subject outdoors.

    colour: of PAINTS.
    shift_px: how far the subject is right of the middle.
    """

    subject: str
    colour: str
    is_night: bool
    shift_px: float
    size_px: PictureSize = SQUARE

    @property
    def time(self) -> str:
        """Day or night."""
        return "night" if self.is_night else "day"

    @property
    def background(self) -> str:
        """The colour of the sky."""
        return SKIES[self.time]


class Element(NamedTuple):
    """A part of a landscape: a polygon with these corners, or the ellipse within these two. Later ones cover earlier ones."""

    colour: str
    points: tuple[Point, ...]
    is_ellipse: bool = False


def elements(landscape: Landscape) -> Iterator[Element]:
    """The parts on the sky, from back to front."""
    width, height = landscape.size_px
    ground = GROUND_SHARE * height
    if landscape.is_night:
        yield _disc("white", width - 24, 24, 14)
        yield _disc(landscape.background, width - 31, 20, 12)
    else:
        yield _disc("yellow", width - 24, 24, 13)
    yield _box(GROUND, 0, ground, width, height)
    x, colour = width / 2 + landscape.shift_px, landscape.colour
    if landscape.subject == "house":
        yield _box(colour, x - 20, ground - 26, x + 20, ground + 10)
        yield Element("orange", ((x - 28, ground - 26), (x, ground - 52), (x + 28, ground - 26)))
        yield _box("black", x - 6, ground - 10, x + 6, ground + 10)
    elif landscape.subject == "tree":
        yield _box("orange", x - 5, ground - 20, x + 5, ground + 10)
        yield _disc(colour, x, ground - 34, 23)
    elif landscape.subject == "flower":
        yield _box(GROUND, x - 3, ground - 36, x + 3, ground + 10)
        for dx, dy in PETALS:
            yield _disc(colour, x + dx, ground - 40 + dy, 10)
        yield _disc("orange", x, ground - 40, 8)
    else:
        yield Element(colour, ((x - 18, ground - 34), (x + 18, ground - 34), (x, ground - 14)))
        yield _disc(colour, x, ground - 44, 22)
        yield _box("orange", x - 7, ground - 18, x + 7, ground - 8)


PETALS: tuple[Point, ...] = ((0.0, -14.0), (13.3, -4.3), (8.2, 11.3), (-8.2, 11.3), (-13.3, -4.3))
"""Centres of a flower's petals around its own."""


def _disc(colour: str, x: float, y: float, radius: float) -> Element:
    return Element(colour, ((x - radius, y - radius), (x + radius, y + radius)), is_ellipse=True)


def _box(colour: str, left: float, top: float, right: float, bottom: float) -> Element:
    return Element(colour, ((left, top), (right, top), (right, bottom), (left, bottom)))


def random_landscape(sampler: Sampler, is_night: bool | None = None) -> Landscape:
    """A landscape of any kind. is_night: random by default."""
    return Landscape(
        subject=sampler.choice(SUBJECTS),
        colour=sampler.choice(PAINTS),
        is_night=sampler.chance(0.5) if is_night is None else is_night,
        shift_px=float(sampler.rng.uniform(-MOST_SHIFT_PX, MOST_SHIFT_PX)),
        size_px=sampler.size_px,
    )
