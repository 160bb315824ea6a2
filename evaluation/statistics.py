"""Averages of subtask means and their 95 % bootstrap intervals, of one model or of the paired difference of two. Numpy only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 2506_18871
CONFIDENCE = 0.95
FEW_SAMPLES = 5
"""The fewest samples of a subtask beside which an interval is about as wide as it claims."""
_RESAMPLED_AT_A_TIME = 2**22

Groups = Mapping[str, Sequence[float]]
"""Values of samples by subtask."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An average with its interval.

    value: the unweighted mean of the subtasks' means.
    low, high: the 95 % interval; None where a subtask has fewer than two samples.
    samples: the number of samples, and of those in the smallest subtask: smallest.
    """

    value: float
    low: float | None
    high: float | None
    samples: int
    smallest: int

    @property
    def is_narrow(self) -> bool:
        """Whether the interval is too narrow, because a subtask has very few samples."""
        return self.low is not None and self.smallest < FEW_SAMPLES


def mean_of_means(groups: Groups) -> float:
    """The unweighted mean of the subtasks' means. Every subtask needs a sample."""
    return float(np.mean([np.mean(values) for values in groups.values()]))


def estimate(groups: Groups, *, resamples: int = RESAMPLES, seed: int = SEED) -> Estimate | None:
    """The average of `groups` with its percentile bootstrap interval; None without samples.

    Samples are resampled within their subtask, n - 1 of n: with n of n the interval of a small subtask is too narrow (Rao and Wu
    1988, "Resampling inference with complex survey data"). For the difference of two models pass the samples' differences.
    """
    arrays = {name: np.asarray(values, np.float64) for name, values in groups.items() if len(values)}
    if not arrays:
        return None
    count, value = sum(map(len, arrays.values())), mean_of_means({name: [*values] for name, values in arrays.items()})
    smallest = min(map(len, arrays.values()))
    if smallest < 2:
        return Estimate(value=value, low=None, high=None, samples=count, smallest=smallest)
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(values, resamples, rng) for values in arrays.values()], axis=0)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=value, low=float(low), high=float(high), samples=count, smallest=smallest)


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    drawn = len(values) - 1
    rows = max(1, _RESAMPLED_AT_A_TIME // drawn)
    parts = [
        values[rng.integers(len(values), size=(min(rows, resamples - first), drawn))].mean(axis=1)
        for first in range(0, resamples, rows)
    ]
    return np.concatenate(parts)


NamedGroups = Mapping[str, Mapping[str, float]]
"""Values by subtask and sample."""


def paired_differences(ours: NamedGroups, theirs: NamedGroups) -> dict[str, list[float]]:
    """The differences by subtask, ours minus theirs, of the samples that both have."""
    differences = {
        task: [value - theirs[task][name] for name, value in values.items() if name in theirs[task]]
        for task, values in ours.items()
        if task in theirs
    }
    return {task: values for task, values in differences.items() if values}
