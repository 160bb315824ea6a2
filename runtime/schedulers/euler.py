"""Euler's method."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Euler:
    """A straight step along the velocity. timesteps: (n,) float32, increasing, in [0, 1)."""

    def __init__(self, timesteps: NDArray[np.float32]) -> None:
        self._widths: NDArray[np.float32] = np.diff(timesteps, append=np.float32(1))

    def step(self, index: int, velocity: NDArray[np.float32], latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The latents at the next time. velocity, latents and the result: (B, C, h, w) float32."""
        moved: NDArray[np.float32] = latents + self._widths[index] * velocity
        return moved
