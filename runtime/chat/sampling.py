"""The next token from logits: greedily, or at random after a repetition penalty, temperature, top-k and top-p, in this order.

Follows transformers' logits processors. The random numbers are numpy's, so a seed gives the same tokens here, and others than in
PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError, shown

LEAST_DIVISOR = 1e-200
"""Lower temperatures count as this one. Over it, the largest float32 stays below float64's largest number, and any difference of
two logits leaves a chance to the larger one only."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A sampler's parameters. Raises RequestError for a value out of range.

    temperature: 0 is greedy.
    top_p: the cumulative probability that is kept; 1 keeps all.
    top_k: the number of tokens that is kept; 0 keeps all.
    repetition_penalty: 0.01 to 100; above 1, tokens that occurred become less likely.
    seed: of the random numbers, 0 <= seed < 2**64.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        ranges = {
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (0 <= self.top_k < 2**63, "0 to 2**63 - 1"),
            "repetition_penalty": (0.01 <= self.repetition_penalty <= 100, "0.01 to 100"),
            "seed": (0 <= self.seed < 2**64, "0 to 2**64 - 1"),
        }
        for name, (is_in_range, allowed) in ranges.items():
            if not is_in_range:
                raise RequestError(f"{name}={shown(getattr(self, name))} is out of range; it must be {allowed}")


class Sampler:
    """Samples the tokens of one answer. banned: tokens that are never sampled."""

    def __init__(self, sampling: Sampling, banned: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._banned = list(banned)
        self._random = np.random.default_rng(sampling.seed)

    def sample(self, logits: NDArray[np.float32], ids: Sequence[int]) -> int:
        """The token after `ids`. logits: (vocabulary) float32."""
        scores = penalize_repetition(logits, ids, self._sampling.repetition_penalty)
        scores[[token for token in self._banned if token < len(scores)]] = -np.inf
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        chances = probabilities(scores, self._sampling)
        return int(self._random.choice(len(chances), p=chances))


def penalize_repetition(logits: NDArray[np.float32], ids: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """A copy of the logits, all finite, in which every token of `ids` is less likely."""
    scores = logits.copy()
    repeated = np.unique(np.asarray(ids, np.int64))
    repeated = repeated[repeated < len(scores)]  # a tokenizer may have more tokens than the model
    old = scores[repeated]
    with np.errstate(over="ignore"):  # what overflows becomes the largest float32
        scores[repeated] = np.nan_to_num(np.where(old < 0, old * np.float32(penalty), old / np.float32(penalty)))
    return scores


def probabilities(scores: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """The probability of each token after temperature, top-k and top-p; they sum to 1."""
    scaled = scores.astype(np.float64) / max(sampling.temperature, LEAST_DIVISOR)
    if 0 < sampling.top_k < len(scaled):
        scaled[scaled < np.partition(scaled, -sampling.top_k)[-sampling.top_k]] = -np.inf
    chances = np.exp(scaled - scaled.max())
    chances /= chances.sum()
    order = np.argsort(-chances, kind="stable")
    before = np.cumsum(chances[order]) - chances[order]
    chances[order[before >= sampling.top_p]] = 0
    kept: NDArray[np.float64] = chances / chances.sum()
    return kept
