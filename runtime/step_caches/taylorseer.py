"""TaylorSeer (arXiv 2503.06923): extrapolate the transformer's output over the steps with a Taylor series.

The rule is OmniGen2's (omnigen2/cache_functions, omnigen2/taylorseer_utils), with two departures that change no number:
only the last layer's output is extrapolated (the layers before it cannot be seen in a predicted step), and a derivative
is kept as its weights over the few recorded outputs instead of as an array, so a prediction is one weighted sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..checks import check_integer
from ..errors import RequestError
from .policy import DeviceArray


@dataclass(frozen=True, kw_only=True)
class TaylorSeer:
    """Runs the transformer at the first steps and then at every `interval`-th, and extrapolates in between.

    warmup_steps: runs before the first prediction, 1 to 100,000; more are safer and slower.
    interval: after the warm-up, every how many steps it runs; 1 to 100,000, 1 never predicts.
    order: the highest derivative used, 0 (repeat the last output) to 100; a bundle says how high it may be, 4 for those made by
        `omnigen2 export`. Keeps order + 1 outputs a branch in memory.
    """

    warmup_steps: int = 5
    interval: int = 3
    order: int = 4

    def __post_init__(self) -> None:
        for name, least, most in (("warmup_steps", 1, 100_000), ("interval", 1, 100_000), ("order", 0, 100)):
            value = check_integer(f"TaylorSeer {name}", getattr(self, name), least, "the smallest allowed", most)
            object.__setattr__(self, name, value)

    def check(self, most_blended: int) -> None:
        """Raises RequestError for an order that needs more states than a bundle blends."""
        if self.order >= most_blended:
            raise RequestError(f"TaylorSeer order={self.order} is too high for this bundle; it allows 0 to {most_blended - 1}")

    def start(self, coefficients: Sequence[float] = ()) -> TaylorSeerBranch:
        """The state for one branch of one request. coefficients: not used."""
        return TaylorSeerBranch(self)


class TaylorSeerBranch:
    """The number of the branch's own steps, its last outputs, and the derivatives' weights over them."""

    needs_change = False

    def __init__(self, policy: TaylorSeer) -> None:
        self._policy = policy
        self._step = -1
        self._last_run = 0
        self._outputs: list[DeviceArray] = []  # newest first
        self._derivatives: list[list[float]] = []  # by order; each a weight per output

    def should_compute(self, step_index: int, steps: int, change: float | None) -> bool:
        """True during the warm-up and at every `interval`-th step after it, counted in the branch's own steps."""
        self._step += 1
        return self._step < self._policy.warmup_steps or self._step - self._last_run == self._policy.interval

    def record(self, image_tokens: DeviceArray, hidden_states: DeviceArray) -> None:
        """Adds an output and renews the derivatives: backward differences over the distance between runs."""
        distance = self._step - self._last_run
        older = [[0.0, *weights] for weights in self._derivatives]
        # The original starts differencing with the last warm-up step, so the first derivative spans one step.
        highest = min(self._policy.order, len(older)) if self._step >= self._policy.warmup_steps - 1 else 0
        outputs = [hidden_states, *self._outputs]
        derivatives = [[1.0] + [0.0] * (len(outputs) - 1)]
        for order in range(highest):
            derivatives.append([(a - b) / distance for a, b in zip(derivatives[order], older[order], strict=True)])
        needed = highest + 1  # a derivative of order k spans k + 1 outputs
        self._outputs = outputs[:needed]
        self._derivatives = [weights[:needed] for weights in derivatives]
        self._last_run = self._step

    def predict(self, image_tokens: DeviceArray) -> tuple[list[DeviceArray], list[float]]:
        """The Taylor series around the last run, as one weight per kept output."""
        assert self._outputs, "predict before record"
        distance = self._step - self._last_run
        powers = [distance**order / math.factorial(order) for order in range(len(self._derivatives))]
        columns = zip(*self._derivatives, strict=True)
        return list(self._outputs), [sum(p * w for p, w in zip(powers, column, strict=True)) for column in columns]
