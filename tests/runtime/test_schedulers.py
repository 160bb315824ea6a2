"""Times and trajectories against the original's schedulers."""

from __future__ import annotations

import re

import numpy as np
import pytest

from omnigen2_rt.runtime.schedulers import SCHEDULERS, DPMSolverPlusPlus, Scheduler, timesteps
from tests.runtime.goldens import arguments, arrays, recordings

GOLDEN = arrays("A", "scheduler")
RECORDED_NAMES = {"euler": "euler", "dpmsolver++": "dpm"}
TRAJECTORIES = [(1, 64), (2, 64), (6, 64), (14, 4096), (15, 4096), (20, 16384)]


@pytest.mark.parametrize("key", [k for k in GOLDEN if re.fullmatch(r"(euler|dpm)_ts_n\d+_tok\d+(_dyn[01])?", k)])
def test_timesteps_equal_the_original(key: str) -> None:
    steps, latent_pixels = map(int, re.findall(r"_n(\d+)_tok(\d+)", key)[0])
    times = timesteps(steps, latent_pixels, dynamic_time_shift=not key.endswith("dyn0"))
    assert times.dtype == np.float32
    np.testing.assert_allclose(times, GOLDEN[key], rtol=0, atol=1e-7)


@pytest.mark.parametrize("shape", ["", "_static"])
@pytest.mark.parametrize(("steps", "latent_pixels"), TRAJECTORIES)
@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_fed_recorded_velocities_follows_the_trajectory(
    name: str, steps: int, latent_pixels: int, shape: str
) -> None:
    key = f"{RECORDED_NAMES[name]}{shape}_n{steps}_tok{latent_pixels}"
    scheduler = SCHEDULERS[name](timesteps(steps, latent_pixels, dynamic_time_shift=not shape))
    latents = GOLDEN[f"{key}_x"][0]
    for i, velocity in enumerate(GOLDEN[f"{key}_v"]):
        latents = scheduler.step(i, velocity, latents)
        assert latents.dtype == np.float32
        np.testing.assert_allclose(latents, GOLDEN[f"{key}_x"][i + 1], rtol=0, atol=3e-6)


@pytest.mark.parametrize(("config", "name"), recordings("pipe_"))
def test_timesteps_of_a_pipeline_equal_the_recorded_ones(config: str, name: str) -> None:
    golden = arrays(config, name)
    steps = arguments(config, name)["call_kwargs"]["num_inference_steps"]
    h, w = golden["latents_steps"].shape[-2:]
    np.testing.assert_allclose(timesteps(steps, h * w, True), golden["timesteps"], rtol=0, atol=1e-7)


def arrival(scheduler: Scheduler, times: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The end of the exact straight flow towards `target`."""
    latents = np.zeros_like(target)
    for i, t in enumerate(times):
        latents = scheduler.step(i, (target - latents) / (1 - t), latents)
    return latents


@pytest.mark.parametrize("times", [[0.0], [0.25, 0.5], [0.1, 0.11, 0.9]])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_with_custom_times_ends_on_the_data(name: str, times: list[float]) -> None:
    """Also where the first time is not 0, so that the second step is truly of second order."""
    grid = np.asarray(times, np.float32)
    target = np.linspace(-2, 2, 16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_allclose(arrival(SCHEDULERS[name](grid), grid, target), target, rtol=0, atol=1e-5)


def test_dpmsolver_on_a_curved_flow_ends_nearer_than_euler() -> None:
    """The flow from standard noise to data spread as N(1.5, 0.3²) is known exactly: x goes to 1.5 + 0.3·x."""

    def velocity(x: np.ndarray, t: float) -> np.ndarray:
        variance = (1 - t) ** 2 + (0.3 * t) ** 2
        data = 1.5 + t * 0.3**2 / variance * (x - 1.5 * t)
        noise = (1 - t) / variance * (x - 1.5 * t)
        return (data - noise).astype(np.float32)

    def error(name: str) -> float:
        times = timesteps(40, 64, False)
        scheduler, latents = SCHEDULERS[name](times), np.full((1, 1, 1, 1), 0.7, np.float32)
        for i, t in enumerate(times):
            latents = scheduler.step(i, velocity(latents, float(t)), latents)
        return abs(latents.item() - (1.5 + 0.3 * 0.7))

    assert error("dpmsolver++") < 0.25 * error("euler") < 0.01


def test_dpmsolver_of_a_new_request_has_no_memory() -> None:
    times = timesteps(4, 64, False)
    velocity = latents = np.ones((1, 1, 2, 2), np.float32)
    first = DPMSolverPlusPlus(times).step(0, velocity, latents)
    np.testing.assert_array_equal(DPMSolverPlusPlus(times).step(0, velocity, latents), first)
