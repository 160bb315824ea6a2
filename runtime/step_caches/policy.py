"""The protocols of cache policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias

DeviceArray: TypeAlias = Any
"""An array on a backend's device. Caches only keep and return them."""


class BranchCache(Protocol):
    """The state of one guidance branch during one request.

    At each step in which the branch takes part: `should_compute` once, then either run the transformer and `record`
    what went in and came out, or `predict`.
    """

    @property
    def needs_change(self) -> bool:
        """Whether `should_compute` wants to know how much the transformer's input has changed."""

    def should_compute(self, step_index: int, steps: int, change: float | None) -> bool:
        """Whether to run the transformer at this step. Advances the state: call it once a step.

        step_index, steps: of the whole schedule. change: relative L1 change of the signal since the branch's previous
        step; None at the branch's first step, and always if not `needs_change`.
        """

    def record(self, image_tokens: DeviceArray, hidden_states: DeviceArray) -> None:
        """Keeps what a run of the transformer took and gave for the image: both (B, L, D)."""

    def predict(self, image_tokens: DeviceArray) -> tuple[list[DeviceArray], list[float]]:
        """Arrays and weights whose weighted sum stands for the hidden states. image_tokens: (B, L, D) at this step."""


class CachePolicy(Protocol):
    """The user's choice, a frozen value."""

    def check(self, most_blended: int) -> None:
        """Raises RequestError where a prediction may need more states than the bundle blends, `most_blended`."""

    def start(self, coefficients: Sequence[float]) -> BranchCache:
        """The state for one branch of one request.

        coefficients: the bundle's polynomial from a change of the input to a change of the output, highest power first.
        """
