"""Schedulers: how a velocity moves the latents from one time to the next.

Time 0 is noise and 1 is the picture; the velocity points to the picture. A scheduler is a file here and a line in
SCHEDULERS. Each request has a new one; it knows only the times and the arguments of earlier steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .dpmsolver import DPMSolverPlusPlus
from .euler import Euler
from .timesteps import timesteps

__all__ = ["SCHEDULERS", "DPMSolverPlusPlus", "Euler", "Scheduler", "timesteps"]


class Scheduler(Protocol):
    """Takes the steps of one request, in order."""

    def step(self, index: int, velocity: NDArray[np.float32], latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The latents at the next time. velocity, latents and the result: (B, C, h, w) float32."""


SCHEDULERS: dict[str, Callable[[NDArray[np.float32]], Scheduler]] = {
    "euler": Euler,
    "dpmsolver++": DPMSolverPlusPlus,
}
