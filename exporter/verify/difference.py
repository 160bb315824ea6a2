"""How far one array lies from another. Knows nothing of where they come from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one thing is from the reference. `relative_error`: of the L2 norm; the worst of a component's outputs.

    psnr_db: of a drawing's pictures; None for components, and where every pixel is the same.
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
        """False also where the error is not a number."""
        return self.relative_error <= self.tolerance


def difference(name: str, kind: str, wanted: np.ndarray, given: np.ndarray, tolerance: float) -> Difference:
    """The errors of `given` against `wanted`, arrays of one shape, computed in float64."""
    a, b = wanted.astype(np.float64).ravel(), given.astype(np.float64).ravel()
    error, norms = np.abs(a - b), (np.linalg.norm(a), np.linalg.norm(b))
    length = float(np.linalg.norm(error))
    return Difference(
        name=name,
        kind=kind,
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        relative_error=length / float(norms[0]) if norms[0] else (0.0 if length == 0 else math.inf),
        cosine=float(a @ b / (norms[0] * norms[1])) if all(norms) else 1.0,
        tolerance=tolerance,
    )


def psnr(wanted: np.ndarray, given: np.ndarray) -> float | None:
    """Peak signal to noise in dB of 8-bit pictures; None where they are the same."""
    mean_square = float(np.mean((wanted.astype(np.float64) - given.astype(np.float64)) ** 2))
    return None if mean_square == 0 else 10 * math.log10(255**2 / mean_square)
