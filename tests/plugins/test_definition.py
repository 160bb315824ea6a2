"""The numpy definition against one in complex numbers and float64."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from omnigen2_rt.plugins.omni_rope.definition import omni_rope
from tests.plugins.cases import DTYPES, EPSILON, Case, Inputs, inputs

EXACT_TO = {"fp32": 5e-7, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half a step of each type, relative to the value; float32 also rounds on the way."""


def by_complex_numbers(sample: Inputs) -> npt.NDArray[np.float64]:
    """A pair (a, b) is a + bi; its rotation by an angle is a product with cos + i sin."""
    x = sample.x.astype(np.float64)
    root_mean_square = np.sqrt((x**2).mean(axis=-1, keepdims=True) + EPSILON)
    normalized = np.ascontiguousarray(x / root_mean_square * sample.weight.astype(np.float64))
    rotated = normalized.view(np.complex128) * (sample.cos + 1j * sample.sin.astype(np.float64))[None, :, None, :]
    return rotated.view(np.float64).transpose(0, 2, 1, 3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 5, 3, 12), (1, 7, 21, 120)], ids=str)
def test_definition_equals_rotation_of_complex_numbers(shape: tuple[int, int, int, int], dtype: str) -> None:
    sample = inputs(Case(*shape, dtype=dtype, weight_dtype=dtype))
    rotated = omni_rope(sample.x, sample.weight, sample.cos, sample.sin, EPSILON)
    expected = by_complex_numbers(sample)
    assert rotated.dtype == DTYPES[dtype]
    assert rotated.shape == expected.shape
    np.testing.assert_allclose(rotated.astype(np.float64), expected, rtol=EXACT_TO[dtype], atol=1e-6)


def test_definition_at_position_zero_is_the_norm_alone() -> None:
    x = np.array([[[[3.0, 4.0]]]], dtype=np.float32)
    one, zero = np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)
    rotated = omni_rope(x, np.ones(2, np.float32), one, zero, 0.0)
    np.testing.assert_allclose(rotated, x / np.sqrt(12.5), rtol=1e-6)


def test_definition_of_a_quarter_rotation_swaps_a_pair() -> None:
    x = np.array([[[[1.0, 0.0, 0.0, 1.0]]]], dtype=np.float32)
    cos, sin = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    rotated = omni_rope(x, np.ones(4, np.float32), cos, sin, 0.0)
    np.testing.assert_allclose(rotated[0, 0, 0], np.sqrt(2) * np.array([0, 1, -1, 0]), atol=1e-6)


def test_definition_of_bfloat16_rounds_once_at_the_end() -> None:
    """A chain of bfloat16 operators also rounds the norm before the rotation, and gives other numbers."""
    sample = inputs(Case(1, 16, 3, 12, dtype="bf16", weight_dtype="bf16"))
    rotated = omni_rope(sample.x, sample.weight, sample.cos, sample.sin, EPSILON)
    wide: list[npt.NDArray[Any]] = [array.astype(np.float32) for array in (sample.x, sample.weight)]
    once = omni_rope(*wide, sample.cos, sample.sin, EPSILON).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(rotated, once)
