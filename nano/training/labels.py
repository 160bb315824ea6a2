"""Labels of what each token of a picture shows, as the targets of the probes that help the networks to learn."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..tasks.task_types import AnyScene
from ..world.landscapes import GROUND_SHARE, SUBJECTS, Landscape
from ..world.scenes import COLOURS, RADII_PX, RELATIONS, SHAPES, STYLES, Scene, Thing, is_badly_drawn, relation_between

REACH = 1.1
"""A token shows a thing if their centres are at most this many of the thing's radii, plus half the token's side, apart."""
LABEL_CLASSES = (
    len(COLOURS),
    len(SHAPES) + len(SUBJECTS) + 1,
    len(COLOURS) + 1,
    len(RADII_PX) + 1,
    len(RELATIONS) + 1,
    3,
    len(STYLES) + 1,
)
"""Classes of each label of a token: the background; the thing's shape, or a landscape's subject; its colour, size, relation to
the only other thing, whether it is well (1) or badly (2) drawn, and its style. Except for the background, 0 is none."""
SUBJECT_RADIUS_PX, SUBJECT_LIFT_PX = 26.0, 24.0
"""About the extent of a landscape's subject, and the height of its middle above the ground."""


class Spot(NamedTuple):
    """A thing or subject that a token may show: its middle and radius in pixels, and its labels, the background's left out."""

    x: float
    y: float
    radius: float
    labels: tuple[int, ...]


def token_labels(scene: AnyScene, grid: tuple[int, int]) -> NDArray[np.int64]:
    """The labels of a picture's tokens, row by row: (tokens, 7), each below its number in LABEL_CLASSES. grid: rows, columns."""
    labels = np.zeros((grid[0] * grid[1], len(LABEL_CLASSES)), np.int64)
    labels[:, 0] = list(COLOURS).index(scene.background)
    for number, _, _, spot in _tokens_with_spots(scene, grid):
        labels[number, 1:] = spot.labels
    return labels


def token_offsets(scene: AnyScene, grid: tuple[int, int]) -> NDArray[np.float32]:
    """The centre (x, y) of each token's thing from the token's, and its radius, in sides of a token: (tokens, 3); 0 for none."""
    side = scene.size_px[0] / grid[1]
    offsets = np.zeros((grid[0] * grid[1], 3), np.float32)
    for number, x, y, spot in _tokens_with_spots(scene, grid):
        offsets[number] = (spot.x - x) / side, (spot.y - y) / side, spot.radius / side
    return offsets


def _spots(scene: AnyScene) -> list[Spot]:
    if isinstance(scene, Landscape):
        (width, height), paint = scene.size_px, list(COLOURS).index(scene.colour) + 1
        kind = len(SHAPES) + SUBJECTS.index(scene.subject) + 1
        middle = width / 2 + scene.shift_px, GROUND_SHARE * height - SUBJECT_LIFT_PX
        return [Spot(*middle, SUBJECT_RADIUS_PX, (kind, paint, 0, 0, 1, 1))]
    return [Spot(thing.x, thing.y, thing.radius, _thing_labels(scene, thing)) for thing in scene.things]


def _thing_labels(scene: Scene, thing: Thing) -> tuple[int, ...]:
    kinds = SHAPES.index(thing.shape), list(COLOURS).index(thing.colour), list(RADII_PX).index(thing.size)
    others = [other for other in scene.things if other is not thing]
    relation = RELATIONS.index(relation_between(thing, others[0])) + 1 if len(others) == 1 else 0
    quality = 2 if is_badly_drawn(thing) else 1
    return *(kind + 1 for kind in kinds), relation, quality, STYLES.index(thing.style) + 1


def _tokens_with_spots(scene: AnyScene, grid: tuple[int, int]) -> Iterator[tuple[int, float, float, Spot]]:
    """The tokens that show something: index, centre x and y, what they show."""
    (rows, columns), spots = grid, _spots(scene)
    side = scene.size_px[0] / columns
    for number in range(rows * columns):
        x, y = (number % columns + 0.5) * side, (number // columns + 0.5) * scene.size_px[1] / rows
        distances = [math.dist((spot.x, spot.y), (x, y)) for spot in spots]
        k = min(range(len(distances)), key=distances.__getitem__)
        if distances[k] < REACH * spots[k].radius + side / 2:
            yield number, x, y, spots[k]
