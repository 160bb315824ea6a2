"""The noise against PyTorch's own generator and against what the original pipeline drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from omnigen2_rt.runtime.noise import gaussian_noise
from tests.runtime.goldens import arrays

SHAPES = [
    (1,), (2,), (3,), (7,), (15,), (16,), (17,), (31,), (32,), (33,), (100,),
    (1, 16, 8, 8), (3, 5, 7, 11), (2, 16, 13, 9), (1, 16, 128, 128),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 16, 2**32 - 1])
def test_noise_of_any_shape_equals_pytorch(shape: tuple[int, ...], seed: int) -> None:
    expected = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).numpy()
    noise = gaussian_noise(shape, seed)
    assert noise.dtype == np.float32
    assert noise.shape == shape
    np.testing.assert_allclose(noise, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", [2**40 + 5, 2**63 + 5, 2**64 - 1])
def test_noise_of_a_seed_above_32_bits_uses_the_low_ones(seed: int) -> None:
    expected = torch.randn((40,), generator=torch.Generator("cpu").manual_seed(seed)).numpy()
    np.testing.assert_allclose(gaussian_noise((40,), seed), expected, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(gaussian_noise((40,), seed), gaussian_noise((40,), seed % 2**32))


def test_noise_without_elements_is_empty() -> None:
    assert gaussian_noise((0, 4), 0).shape == (0, 4)


@pytest.mark.parametrize(("name", "seed"), [("pipe_t2i_gen", 16), ("pipe_edit_gen", 20)])
def test_noise_of_a_recorded_seed_equals_the_pipeline(name: str, seed: int) -> None:
    initial = arrays("A", name)["initial_latents"]
    np.testing.assert_allclose(gaussian_noise(initial.shape, seed), initial, rtol=0, atol=1e-6)
