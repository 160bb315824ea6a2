"""Labels of what each token of a picture shows, as the targets of the probes that help the networks to learn."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ..world import (
    COLOURS,
    RADII_PX,
    RELATIONS,
    SHAPES,
    SIDE_PX,
    Scene,
    Thing,
    is_badly_drawn,
    relation_between,
)

REACH = 1.1
"""A token shows a thing if their centres are at most this many of the thing's radii, plus half the token's side, apart."""
LABEL_CLASSES = (len(COLOURS), len(SHAPES) + 1, len(COLOURS) + 1, len(RADII_PX) + 1, len(RELATIONS) + 1, 3)
"""Classes of each label of a token: the background; the thing's shape, colour, size, relation to the only other thing, and
whether it is well (1) or badly (2) drawn. Except for the background, 0 is none."""


def token_labels(scene: Scene, tokens_per_side: int) -> NDArray[np.int64]:
    """The labels of a picture's tokens, row by row: (tokens, 6), each below its number in LABEL_CLASSES."""
    labels = np.zeros((tokens_per_side**2, len(LABEL_CLASSES)), np.int64)
    labels[:, 0] = list(COLOURS).index(scene.background)
    rows = [_thing_labels(scene, thing) for thing in scene.things]
    for number, _, _, k in _tokens_with_things(scene, tokens_per_side):
        labels[number, 1:] = rows[k]
    return labels


def token_offsets(scene: Scene, tokens_per_side: int) -> NDArray[np.float32]:
    """The centre (x, y) of each token's thing from the token's, and its radius, in sides of a token: (tokens, 3); 0 for none."""
    side = SIDE_PX / tokens_per_side
    offsets = np.zeros((tokens_per_side**2, 3), np.float32)
    for number, x, y, k in _tokens_with_things(scene, tokens_per_side):
        thing = scene.things[k]
        offsets[number] = (thing.x - x) / side, (thing.y - y) / side, thing.radius / side
    return offsets


def _thing_labels(scene: Scene, thing: Thing) -> list[int]:
    kinds = SHAPES.index(thing.shape), list(COLOURS).index(thing.colour), list(RADII_PX).index(thing.size)
    others = [other for other in scene.things if other is not thing]
    relation = RELATIONS.index(relation_between(thing, others[0])) + 1 if len(others) == 1 else 0
    return [*(kind + 1 for kind in kinds), relation, 2 if is_badly_drawn(thing) else 1]


def _tokens_with_things(scene: Scene, tokens_per_side: int) -> Iterator[tuple[int, float, float, int]]:
    """The tokens that show a thing: index, centre x and y, index of the thing."""
    side = SIDE_PX / tokens_per_side
    for number in range(tokens_per_side**2):
        x, y = (number % tokens_per_side + 0.5) * side, (number // tokens_per_side + 0.5) * side
        distances = [math.hypot(thing.x - x, thing.y - y) for thing in scene.things]
        k = min(range(len(distances)), key=distances.__getitem__)
        if distances[k] < REACH * scene.things[k].radius + side / 2:
            yield number, x, y, k
