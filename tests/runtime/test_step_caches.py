"""Cache policies: the steps they compute against the original's recordings, their predictions against its formulas."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.step_caches import CACHES, BranchCache, TaylorSeer, TeaCache
from tests.runtime.goldens import arguments, arrays, calls_by_step, recordings

COEFFICIENTS = (-5.48259225, 11.48772289, -4.47407401, 2.47730926, -0.03316487)


def decisions(
    policy: TeaCache | TaylorSeer, steps: list[dict[str, bool]], changes: Iterator[float] | None
) -> list[dict[str, bool]]:
    """A policy's decisions for the branches that take part in each step. `changes` skips the forced decisions."""
    states: dict[str, BranchCache] = {}
    decided = []
    for i, branches in enumerate(steps):
        at_step = {}
        for branch in branches:
            known = branch in states
            state = states.setdefault(branch, policy.start(COEFFICIENTS))
            recorded = changes is not None and known and 0 < i < len(steps) - 1
            change = (next(changes) if recorded else 1.0 if known else None) if changes is not None else None
            at_step[branch] = state.should_compute(i, len(steps), change)
            if at_step[branch]:
                state.record("tokens", "hidden")
        decided.append(at_step)
    return decided


@pytest.mark.parametrize(("config", "name"), recordings("pipe_tea_"))
def test_teacache_fed_recorded_changes_computes_the_recorded_steps(config: str, name: str) -> None:
    policy = TeaCache(threshold=arguments(config, name)["teacache_rel_l1_thresh"])
    changes = iter(arrays(config, name)["tea_rel_l1"].tolist())
    expected = calls_by_step(config, name)
    assert decisions(policy, expected, changes) == expected
    assert next(changes, None) is None


@pytest.mark.parametrize(("config", "name"), recordings("pipe_tay_"))
def test_taylorseer_computes_the_recorded_steps(config: str, name: str) -> None:
    """Each branch counts its own steps, also where cfg_range lets it start late."""
    expected = calls_by_step(config, name)
    assert decisions(TaylorSeer(), expected, None) == expected


def test_teacache_branch_that_starts_late_computes_first() -> None:
    """The original fails here with a TypeError: it has no earlier signal to compare with."""
    state = TeaCache(threshold=10.0).start(COEFFICIENTS)
    assert [state.should_compute(i, 10, change) for i, change in [(4, None), (5, 0.1), (6, 0.1)]] == [
        True,
        False,
        False,
    ]


def test_teacache_accumulates_the_polynomial_until_the_threshold() -> None:
    state = TeaCache(threshold=0.5).start((1.0, 0.0))
    assert [state.should_compute(i, 9, 0.2) for i in range(9)] == [
        True, False, False, True, False, False, True, False, True,
    ]  # fmt: skip


def test_teacache_prediction_adds_the_last_residual() -> None:
    state = TeaCache().start(COEFFICIENTS)
    state.record(np.array([1.0, 2.0]), np.array([5.0, 7.0]))
    state.record(np.array([2.0, 2.0]), np.array([3.0, 4.0]))
    np.testing.assert_array_equal(blend(*state.predict(np.array([10.0, 20.0]))), [11.0, 22.0])


def blend(arrays: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return np.sum([weight * array for weight, array in zip(weights, arrays, strict=True)], axis=0)


class RecursiveTaylor:
    """The derivatives as arrays, in the recursive form of the paper's code: what the weights must amount to."""

    def __init__(self, policy: TaylorSeer) -> None:
        self.policy = policy
        self.derivatives: list[np.ndarray] = []
        self.runs = [0]

    def record(self, step: int, output: np.ndarray) -> None:
        self.runs.append(step)
        fresh = [output]
        for i in range(self.policy.order):
            if i >= len(self.derivatives) or step <= self.policy.warmup_steps - 2:
                break
            fresh.append((fresh[i] - self.derivatives[i]) / (self.runs[-1] - self.runs[-2]))
        self.derivatives = fresh

    def predict(self, step: int) -> np.ndarray:
        x = step - self.runs[-1]
        return np.sum([d * x**i / math.factorial(i) for i, d in enumerate(self.derivatives)], axis=0)


@pytest.mark.parametrize(
    "policy",
    [
        TaylorSeer(),
        TaylorSeer(interval=1),
        TaylorSeer(warmup_steps=1, interval=4, order=2),
        TaylorSeer(warmup_steps=3, interval=2, order=0),
        TaylorSeer(warmup_steps=2, interval=3, order=6),
    ],
    ids=str,
)
def test_taylorseer_weighted_sums_over_30_steps_equal_the_recursive_derivatives(policy: TaylorSeer) -> None:
    random = np.random.default_rng(0)
    state, recursive = policy.start(), RecursiveTaylor(policy)
    predicted = 0
    for step in range(30):
        tokens, hidden = random.standard_normal((2, 1, 6, 4))
        if state.should_compute(step, 30, None):
            state.record(tokens, hidden)
            recursive.record(step, hidden)
        else:
            kept, weights = state.predict(tokens)
            assert len(kept) <= policy.order + 1
            np.testing.assert_allclose(blend(kept, weights), recursive.predict(step), rtol=1e-9, atol=1e-9)
            predicted += 1
    assert predicted == sum(
        (step - policy.warmup_steps + 1) % policy.interval != 0 for step in range(policy.warmup_steps, 30)
    )


def test_taylorseer_prediction_weights_sum_to_one() -> None:
    """A constant output is predicted exactly, whatever the order."""
    state = TaylorSeer().start()
    for step in range(30):
        if state.should_compute(step, 30, None):
            state.record("tokens", f"output {step}")
        else:
            kept, weights = state.predict("tokens")
            assert sum(weights) == pytest.approx(1)
            assert kept[0] == f"output {step - 1 if (step - 5) % 3 == 0 else step - 2}"


def test_teacache_alone_needs_the_change() -> None:
    assert {name: policy().start(COEFFICIENTS).needs_change for name, policy in CACHES.items()} == {
        "teacache": True,
        "taylorseer": False,
    }


@pytest.mark.parametrize(
    ("policy", "most_blended", "message"),
    [
        (TaylorSeer(order=5), 5, "TaylorSeer order=5 is too high for this bundle; it allows 0 to 4"),
        (TaylorSeer(order=40), 5, "TaylorSeer order=40 is too high for this bundle; it allows 0 to 4"),
        (TeaCache(), 2, "TeaCache needs a bundle that blends 3 states; this one blends 2"),
    ],
    ids=str,
)
def test_cache_policy_that_needs_more_states_than_the_bundle_blends_is_refused(
    policy: Any, most_blended: int, message: str
) -> None:
    with pytest.raises(RequestError, match=f"^{message}$"):
        policy.check(most_blended)


def test_cache_policy_that_needs_as_many_states_as_the_bundle_blends_is_allowed() -> None:
    TaylorSeer(order=4).check(5)
    TeaCache().check(3)


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        (TeaCache, {"threshold": -0.1}, "TeaCache threshold=-0.1 is out of range, 0 to 1000000; 0.05 is usual"),
        (TeaCache, {"threshold": float("nan")}, "TeaCache threshold=nan is not a finite number"),
        (TeaCache, {"threshold": 10**400}, "TeaCache threshold=(an integer of 1329 bits) is not a finite number"),
        (TeaCache, {"threshold": 1e7}, "TeaCache threshold=10000000.0 is out of range, 0 to 1000000; 0.05 is usual"),
        (TaylorSeer, {"interval": 10**99}, "TaylorSeer interval=(an integer of 329 bits) is above the largest allowed, 100000"),
        (TaylorSeer, {"order": 101}, "TaylorSeer order=101 is above the largest allowed, 100"),
        (TeaCache, {"threshold": "x"}, "TeaCache threshold='x' is not a number"),
        (TaylorSeer, {"warmup_steps": 0}, "TaylorSeer warmup_steps=0 is below the smallest allowed, 1"),
        (TaylorSeer, {"interval": 1.5}, "TaylorSeer interval=1.5 is not a whole number"),
        (TaylorSeer, {"order": -1}, "TaylorSeer order=-1 is below the smallest allowed, 0"),
    ],
)
def test_cache_policy_with_a_bad_value_says_what_is_allowed(policy: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$"):
        policy(**options)


@pytest.mark.parametrize(("given", "kept"), [(np.float16(0.5), 0.5), (np.float64(0.3), 0.3), (1, 1)])
def test_teacache_threshold_of_any_float_type_is_kept_as_a_plain_number(given: Any, kept: float) -> None:
    """A float16 gave a RuntimeWarning: the limit overflows in its own type."""
    threshold = TeaCache(threshold=given).threshold
    assert threshold == kept and type(threshold) is type(kept)


class NoComparison(float):
    """A number whose comparisons and conversion raise."""

    def _fail(self, *_: object) -> Any:
        raise ZeroDivisionError("no")

    __float__ = __lt__ = __le__ = __gt__ = __ge__ = _fail


@pytest.mark.parametrize(
    ("policy", "field", "value"),
    [
        (TeaCache, "threshold", NoComparison(1)),
        (TeaCache, "threshold", np.timedelta64(1, "s")),
        (TaylorSeer, "order", np.timedelta64(1, "s")),
    ],
)
def test_cache_policy_with_a_value_whose_methods_raise_says_so(policy: Any, field: str, value: Any) -> None:
    """It ended in the value's own exception, or in TypeError: numpy calls a span of time an integer."""
    with pytest.raises(RequestError, match=f"^{policy.__name__} {field}"):
        policy(**{field: value})
