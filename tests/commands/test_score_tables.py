"""Scores and their differences in words."""

from __future__ import annotations

import pytest

from omnigen2_rt.commands.score_tables import score_table, verdict_line
from omnigen2_rt.evaluation.scores import Average
from omnigen2_rt.evaluation.statistics import Estimate


def average(low: float | None, high: float | None, smallest: int = 9) -> Average:
    value = -0.5 if low is None or high is None else (low + high) / 2
    return Average(tasks={"a": value}, all=Estimate(value=value, low=low, high=high, samples=20, smallest=smallest))


@pytest.mark.parametrize(
    ("difference", "said"),
    [
        (average(-2, -1), "ours scores lower than theirs: the difference is -1.50, its 95 % interval -2.00 to -1.00."),
        (average(1, 2), "ours scores higher than theirs: the difference is +1.50"),
        (average(-1, 2), "ours and theirs can't be told apart: the difference is +0.50"),
        (average(1, 2, smallest=4), "ours and theirs have too few samples to be told apart: the difference is +1.50"),
        (average(None, None, smallest=1), "ours minus theirs is -0.50; it has no interval"),
        (Average(tasks={"a": 1.0}, all=None), "No difference is given: a set is incomplete"),
        (Average(tasks={}, all=None), "No difference is given: no sample has a score of both ours and theirs."),
    ],
)
def test_difference_is_said_in_words(difference: Average, said: str) -> None:
    assert verdict_line("ours", "theirs", difference).startswith(said)


@pytest.mark.parametrize(("smallest", "is_noted"), [(4, True), (5, False)])
def test_table_notes_an_interval_of_very_few_samples(smallest: int, is_noted: bool) -> None:
    assert ("too narrow" in score_table("ours", {"overall": average(1, 2, smallest)})) is is_noted
