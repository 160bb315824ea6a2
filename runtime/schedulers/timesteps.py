"""The times of a schedule; every scheduler uses the same ones."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def timesteps(steps: int, latent_pixels: int, dynamic_time_shift: bool) -> NDArray[np.float32]:
    """The times at which the model is asked, from 0 (noise) up; the end, 1, is not among them.

    steps: how many. latent_pixels: h · w of the latents. With `dynamic_time_shift` larger pictures spend more of their
    steps near the noise: t' = t / (m − m·t + t), m = sqrt(latent_pixels) / 40, so that 320 × 320 px are left unshifted.
    Source: omnigen2/schedulers/scheduling_flow_match_euler_discrete.py. Returns (steps,) float32.
    """
    even = np.linspace(0, 1, steps + 1, dtype=np.float32)[:-1]
    if not dynamic_time_shift:
        return even
    m = math.sqrt(latent_pixels) / 40
    t = even.astype(np.float64)  # the original's sqrt is a numpy float64 too
    return (t / (m - m * t + t)).astype(np.float32)
