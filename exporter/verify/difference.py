"""Error measures between two arrays. Knows nothing of where the arrays come from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The errors of a component or a drawing against the reference.

    relative_error: the L2 norm of the error over that of the reference; a component's is that of its worst output.
    psnr_db: of a drawing's images; None for components, and where all pixels are equal.
    """

    name: str
    kind: str
    max_error: float
    mean_error: float
    relative_error: float
    cosine: float
    tolerance: float
    psnr_db: float | None = None

    @property
    def within_tolerance(self) -> bool:
        """False also where the error is NaN."""
        return self.relative_error <= self.tolerance


def difference(name: str, kind: str, expected: np.ndarray, actual: np.ndarray, tolerance: float) -> Difference:
    """The errors of `actual` against `expected`, arrays of one shape, computed in float64."""
    a, b = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    error, norms = np.abs(a - b), (np.linalg.norm(a), np.linalg.norm(b))
    return Difference(
        name=name,
        kind=kind,
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        relative_error=relative_error(expected, actual),
        cosine=float(a @ b / (norms[0] * norms[1])) if all(norms) else 1.0,
        tolerance=tolerance,
    )


def relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """The L2 norm of the error over that of `expected`, in float64. Infinite for an error against zeros."""
    a, b = expected.astype(np.float64).ravel(), actual.astype(np.float64).ravel()
    error, norm = float(np.linalg.norm(np.abs(a - b))), float(np.linalg.norm(a))
    return error / norm if norm else (0.0 if error == 0 else math.inf)


def worst(differences: Iterable[Difference]) -> Difference:
    """The difference with the largest relative error; NaN counts as the largest."""
    return max(differences, key=lambda row: math.inf if math.isnan(row.relative_error) else row.relative_error)


def psnr(expected: np.ndarray, actual: np.ndarray) -> float | None:
    """The peak signal-to-noise ratio of 8-bit images in dB; None where all pixels are equal."""
    mean_square = float(np.mean((expected.astype(np.float64) - actual.astype(np.float64)) ** 2))
    return None if mean_square == 0 else 10 * math.log10(255**2 / mean_square)
