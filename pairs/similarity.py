"""The similarity of two frames: the mean cosine between the vision encoder's features of the same places.

1 means equal. Frames of other sizes are compared on the coarser of their two grids. Features of the last frames are remembered,
because most comparisons are of neighbours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..runtime.files.kept_results import KeptResults
from ..runtime.mllm.language_model import ImageFeatures
from .frames import Frame

REMEMBERED_FRAMES = 32
_DIGITS = 6

Encode = Callable[[Frame], ImageFeatures]
Similar = Callable[[Frame, Frame], float]


def similarity(first: ImageFeatures, second: ImageFeatures) -> float:
    """The mean cosine of two pictures' features, -1 to 1."""
    grid = min(first.grid[0], second.grid[0]), min(first.grid[1], second.grid[1])
    a, b = _on_grid(first, grid), _on_grid(second, grid)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return float(((a * b).sum(-1) / np.maximum(lengths, 1e-12)).mean())


def _on_grid(features: ImageFeatures, grid: tuple[int, int]) -> NDArray[np.float64]:
    """The features (rows, columns, Dt), averaged over the places that fall into each place of a coarser grid."""
    places = features.embeds.reshape(*features.grid, -1).astype(np.float64)
    for axis, count in enumerate(grid):
        bounds = [places.shape[axis] * k // count for k in range(count)]
        sizes = np.diff([*bounds, places.shape[axis]]).reshape([-1 if k == axis else 1 for k in range(3)])
        places = np.add.reduceat(places, bounds, axis=axis) / sizes
    return places


class Similarities:
    """Similarities of frames, kept in a file.

    encode: the features of a frame. source: the encoder that computes them: results of another one aren't taken.
    """

    def __init__(self, encode: Encode, kept: KeptResults, source: str) -> None:
        self._encode = encode
        self._kept = kept
        self._source = source
        self._features: OrderedDict[str, ImageFeatures] = OrderedDict()

    def __call__(self, first: Frame, second: Frame) -> float:
        """The similarity of two frames. Raises as `encode` does."""
        facts = ["similarity", self._source, sorted((first.digest, second.digest))]
        return self._kept.get(facts, lambda: round(similarity(self._of(first), self._of(second)), _DIGITS))

    def _of(self, frame: Frame) -> ImageFeatures:
        features = self._features.pop(frame.digest, None) or self._encode(frame)
        self._features[frame.digest] = features
        if len(self._features) > REMEMBERED_FRAMES:
            self._features.popitem(last=False)
        return features
