"""Branches of a step against the calls that the original pipeline made, and how velocities combine."""

from __future__ import annotations

import numpy as np
import pytest

from omnigen2_rt.runtime.guidance import BRANCHES, combine, has_negative_prompt, has_references, plan_branches
from tests.runtime.goldens import arguments, calls_by_step, recordings


@pytest.mark.parametrize(("config", "name"), recordings("pipe_"))
def test_branches_of_every_step_equal_the_recorded_calls(config: str, name: str) -> None:
    args = arguments(config, name)
    options = args["call_kwargs"]
    calls = calls_by_step(config, name)
    plan = plan_branches(
        len(calls),
        text_guidance=options.get("text_guidance_scale", 4.0),
        image_guidance=options.get("image_guidance_scale", 1.0),
        cfg_range=tuple(options.get("cfg_range", (0.0, 1.0))),
        has_images=bool(args["images"]),
    )
    assert plan == tuple(map(tuple, calls))


def test_branches_at_the_ends_of_cfg_range_are_guided() -> None:
    plan = plan_branches(10, text_guidance=4, image_guidance=2, cfg_range=(0.2, 0.6), has_images=True)
    assert [*map(len, plan)] == [1, 1, 3, 3, 3, 3, 3, 1, 1, 1]


def test_branches_have_references_and_prompts_as_documented() -> None:
    assert {b: (has_references(b), has_negative_prompt(b)) for b in BRANCHES} == {
        "cond": (True, False),
        "ref": (True, True),
        "uncond": (False, True),
    }


def velocity(value: float) -> np.ndarray:
    return np.full((1, 2, 3, 3), value, np.float32)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cond": 3.0}, 3.0),
        ({"cond": 3.0, "uncond": 1.0}, 1 + 5 * (3 - 1)),
        ({"cond": 3.0, "ref": 2.0, "uncond": -1.0}, -1 + 2.5 * (2 + 1) + 5 * (3 - 2)),
    ],
)
def test_combine_of_one_two_or_three_branches_follows_the_formula(values: dict[str, float], expected: float) -> None:
    guided = combine({b: velocity(v) for b, v in values.items()}, text_guidance=5.0, image_guidance=2.5)
    assert guided.dtype == np.float32
    np.testing.assert_allclose(guided, velocity(expected), rtol=1e-6)
