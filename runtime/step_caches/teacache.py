"""TeaCache (arXiv 2411.19108): skip the transformer while its input has changed little.

The rule is OmniGen2's (omnigen2/models/transformers/transformer_omnigen2.py), with one departure: a branch that first
takes part after step 0 computes then, where the original fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..checks import check_number
from ..errors import RequestError
from .policy import DeviceArray

PREDICTION_STATES = 3


@dataclass(frozen=True, kw_only=True)
class TeaCache:
    """Skips the transformer until the estimated change of its output adds up to `threshold`.

    threshold: 0 to 1,000,000; higher skips more and strays further. The skipped part depends on model and steps.
    """

    threshold: float = 0.05

    def __post_init__(self) -> None:
        value = check_number("TeaCache threshold", self.threshold)
        if not 0 <= value <= 1_000_000:
            raise RequestError(f"TeaCache threshold={value} is out of range, 0 to 1000000; 0.05 is usual")
        object.__setattr__(self, "threshold", self.threshold if type(self.threshold) is int else value)

    def check(self, most_blended: int) -> None:
        """Raises RequestError where a bundle blends fewer than the three states of a prediction."""
        if most_blended < PREDICTION_STATES:
            raise RequestError(f"TeaCache needs a bundle that blends {PREDICTION_STATES} states; this one blends {most_blended}")

    def start(self, coefficients: Sequence[float]) -> TeaCacheBranch:
        """The state for one branch of one request. coefficients: the bundle's polynomial, highest power first."""
        return TeaCacheBranch(self.threshold, tuple(coefficients))


class TeaCacheBranch:
    """An accumulator, and the transformer's input and output at its last run."""

    needs_change = True

    def __init__(self, threshold: float, coefficients: tuple[float, ...]) -> None:
        self._threshold = threshold
        self._coefficients = coefficients
        self._accumulated = 0.0
        self._last: tuple[DeviceArray, DeviceArray] | None = None

    def should_compute(self, step_index: int, steps: int, change: float | None) -> bool:
        """True at the schedule's ends, at the branch's first step, and when enough change has added up."""
        forced = change is None or step_index == 0 or step_index == steps - 1
        if change is not None and not forced:
            self._accumulated += _polynomial(self._coefficients, change)
        if forced or not self._accumulated < self._threshold:
            self._accumulated = 0.0
            return True
        return False

    def record(self, image_tokens: DeviceArray, hidden_states: DeviceArray) -> None:
        """Keeps both; their difference is the residual that skipped steps reuse."""
        self._last = (image_tokens, hidden_states)

    def predict(self, image_tokens: DeviceArray) -> tuple[list[DeviceArray], list[float]]:
        """The step's own tokens plus the last residual."""
        assert self._last is not None, "predict before record"
        tokens_then, hidden_then = self._last
        return [image_tokens, hidden_then, tokens_then], [1.0, 1.0, -1.0]


def _polynomial(coefficients: Sequence[float], x: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * x + coefficient
    return value
