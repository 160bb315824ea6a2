"""Rates, their confidence and their table."""

from __future__ import annotations

import pytest

from omnigen2_rt.nano.scores import Score, Target, table, wilson


def score(right: int, samples: int, target: Target) -> Score:
    return Score(
        name="one", title="one thing", target=target, right=right, samples=samples, kinds={}, failures=(), seconds=1.0
    )


@pytest.mark.parametrize(
    ("successes", "samples", "low", "high"),
    [(0, 10, 0.0, 0.2775), (8, 10, 0.4902, 0.9433), (10, 10, 0.7225, 1.0), (190, 200, 0.9104, 0.9726)],
)
def test_wilson_interval_is_the_textbooks(successes: int, samples: int, low: float, high: float) -> None:
    assert wilson(successes, samples) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.parametrize(("right", "is_reached"), [(89, False), (90, True), (100, True)])
def test_score_is_reached_from_the_requirement_on(right: int, is_reached: bool) -> None:
    assert score(right, 100, Target(required=0.9)).is_reached is is_reached


@pytest.mark.parametrize(("right", "is_reached"), [(91, False), (92, True), (100, True)])
def test_score_of_wrong_answers_is_reached_up_to_the_requirement(right: int, is_reached: bool) -> None:
    counted = score(right, 100, Target(required=0.08, counts_wrong=True))
    assert counted.is_reached is is_reached
    assert counted.rate == pytest.approx(1 - right / 100)


def test_table_has_targets_beside_scores_and_marks_targets_not_reached() -> None:
    targets = Target(required=0.9, aim=0.98), Target(required=0.08, aim=0.01, counts_wrong=True), Target()
    text = table([score(right, 200, target) for right, target in zip((190, 170, 0), targets, strict=True)])
    assert text.splitlines() == [
        "ability     score  95 % confidence         needed   aim  samples",
        "one thing  95.0 %      91.0-97.3 %  at least 90 %  98 %      200",
        "one thing  15.0 %      10.7-20.6 %    at most 8 %   1 %      200  not reached",
        "one thing   0.0 %        0.0-1.9 %                           200",
    ]
