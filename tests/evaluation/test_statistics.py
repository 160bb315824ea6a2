"""Averages, intervals that cover the truth at their rate, and paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from omnigen2_rt.evaluation.statistics import estimate, mean_of_means, paired_differences


@pytest.mark.parametrize(("samples", "least", "most"), [(6, 0.90, 0.975), (50, 0.925, 0.975)])
def test_interval_covers_the_truth_at_its_rate(samples: int, least: float, most: float) -> None:
    """400 sets of 8 subtasks, of grades from 0 to 10: the standard error of a rate of 95 % is 1.1 %."""
    rng, covered, sets = np.random.default_rng(1), 0, 400
    chances = [rng.dirichlet(np.ones(11)) for _ in range(8)]
    truth = float(np.mean([chance @ np.arange(11) for chance in chances]))
    for _ in range(sets):
        groups = {str(task): rng.choice(11, size=samples, p=chance).astype(float) for task, chance in enumerate(chances)}
        result = estimate(groups, resamples=500)
        assert result is not None and result.low is not None and result.high is not None
        covered += result.low <= truth <= result.high
    assert least <= covered / sets <= most


def test_paired_interval_finds_a_loss_that_unpaired_intervals_hide() -> None:
    rng = np.random.default_rng(2)
    theirs = {f"task{task}": {str(k): float(rng.uniform(2, 9)) for k in range(40)} for task in range(4)}
    ours = {task: {key: value - rng.normal(0.2, 0.3) for key, value in values.items()} for task, values in theirs.items()}
    difference = estimate(paired_differences(ours, theirs))
    alone = [estimate({task: [*values.values()] for task, values in model.items()}) for model in (ours, theirs)]
    assert difference is not None and difference.high is not None and difference.high < 0
    assert alone[0] is not None and alone[1] is not None and alone[0].high > alone[1].low  # type: ignore[operator]


def test_average_weighs_subtasks_alike_whatever_their_number_of_samples() -> None:
    groups = {"a": [10.0] * 90, "b": [0.0, 0.0]}
    assert mean_of_means(groups) == 5
    result = estimate(groups)
    assert result is not None and (result.value, result.low, result.high, result.samples) == (5, 5, 5, 92)


def test_interval_is_the_same_at_each_run_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    groups = {"a": [*rng.uniform(0, 10, 30)], "b": [*rng.uniform(0, 10, 20)]}
    whole = estimate(groups)
    assert estimate(groups) == whole and estimate(groups, seed=1) != whole
    monkeypatch.setattr("omnigen2_rt.evaluation.statistics._RESAMPLED_AT_A_TIME", 1000)
    pieces = estimate(groups)
    assert pieces is not None and whole is not None and pieces.low == pytest.approx(whole.low, abs=0.1)


def test_interval_needs_two_samples_in_each_subtask() -> None:
    result = estimate({"a": [1.0, 2.0], "b": [4.0]})
    assert result is not None and (result.value, result.low, result.high) == (2.75, None, None)
    assert estimate({}) is None and estimate({"a": []}) is None


@pytest.mark.parametrize(("sizes", "is_narrow"), [((1, 9), False), ((2, 9), True), ((4, 9), True), ((5, 9), False)])
def test_interval_of_very_few_samples_says_that_it_is_too_narrow(sizes: tuple[int, int], is_narrow: bool) -> None:
    result = estimate({str(k): [float(value) for value in range(size)] for k, size in enumerate(sizes)})
    assert result is not None and (result.smallest, result.is_narrow) == (sizes[0], is_narrow)


def test_difference_is_taken_of_samples_that_both_have() -> None:
    ours = {"a": {"1": 3.0, "2": 5.0}, "b": {"1": 1.0}, "c": {"1": 9.0}}
    theirs = {"a": {"2": 4.0, "3": 9.0}, "b": {"1": 1.0}, "d": {"1": 9.0}}
    assert paired_differences(ours, theirs) == {"a": [1.0], "b": [0.0]}
