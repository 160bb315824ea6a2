"""DPM-Solver++, multistep, second order, midpoint form (arXiv 2211.01095, Algorithm 2), for flow matching.

With alpha = t, sigma = 1 − t and lambda = log(alpha / sigma), the model's velocity gives a data prediction
x0 = x + sigma·v, and the solver extrapolates x0 along lambda. The paper's exponentials are written out in alpha and
sigma, so the infinite lambdas at t = 0 and t = 1 never arise.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class DPMSolverPlusPlus:
    """Second order between the first step and the last, which are of first order; steps are taken in order.

    timesteps: (n,) float32, increasing, in [0, 1).
    """

    def __init__(self, timesteps: NDArray[np.float32]) -> None:
        self._times = [float(t) for t in timesteps] + [1.0]
        self._previous_data: NDArray[np.float32] | None = None

    def step(self, index: int, velocity: NDArray[np.float32], latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """The latents at the next time. velocity, latents and the result: (B, C, h, w) float32."""
        t, t_next = self._times[index], self._times[index + 1]
        data: NDArray[np.float32] = latents + np.float32(1 - t) * velocity
        extrapolated = data
        if self._previous_data is not None:
            slope = self._slope_weight(index)
            extrapolated = data + np.float32(slope) * (data - self._previous_data)
        self._previous_data = data
        shrink = (1 - t_next) / (1 - t)
        moved: NDArray[np.float32] = latents * np.float32(shrink) + extrapolated * np.float32(t_next - t * shrink)
        return moved

    def _slope_weight(self, index: int) -> float:
        """h / (2·h_previous), h being widths in lambda. The limit is 0 where the previous width is infinite (it began
        at t = 0), and the last step, whose own width is infinite, is of first order by rule."""
        before, now, after = self._times[index - 1 : index + 2]
        if before == 0 or after == 1:
            return 0.0
        return 0.5 * (_log_ratio(after) - _log_ratio(now)) / (_log_ratio(now) - _log_ratio(before))


def _log_ratio(t: float) -> float:
    return math.log(t) - math.log(1 - t)
