"""Error compensation: no output is worse than without it, and correlated inputs get far smaller errors."""

from __future__ import annotations

import numpy as np
import pytest

from omnigen2_rt.exporter.quantize.gptq import gptq_rounding
from omnigen2_rt.exporter.quantize.rounding import Floats, Rounded, round_to_4_bits

BLOCK, INPUTS, OUTPUTS = 32, 96, 20
RNG = np.random.default_rng(3)
WEIGHT = RNG.standard_normal((INPUTS, OUTPUTS)).astype(np.float32)


def products_of(kind: str) -> Floats:
    """(96, 96)"""
    rows = {
        "apart": np.eye(INPUTS) * np.linspace(0.1, 3, INPUTS) * INPUTS**0.5,
        "together": RNG.standard_normal((500, 12)) @ RNG.standard_normal((12, INPUTS))
        + 0.3 * RNG.standard_normal((500, INPUTS)),
        "some never": RNG.standard_normal((500, INPUTS)) * (np.arange(INPUTS) < 40),
        "none": np.zeros((5, INPUTS)),
    }[kind]
    return (rows.T @ rows / len(rows)).astype(np.float32)


def errors(rounded: Rounded, products: Floats) -> Floats:
    difference = rounded.values().astype(np.float64) - WEIGHT
    return (difference * (products @ difference)).sum(axis=0)


@pytest.mark.parametrize(("kind", "part"), [("apart", 1.0), ("together", 0.5), ("some never", 1.0), ("none", 1.0)])
def test_no_output_is_worse_than_by_the_search_and_together_they_lose_less(kind: str, part: float) -> None:
    products = products_of(kind)
    rounded = gptq_rounding(products, BLOCK)(WEIGHT)
    before = errors(round_to_4_bits(WEIGHT, BLOCK, np.diag(products)), products)
    after = errors(rounded, products)
    assert np.all(after <= before * (1 + 1e-4))
    assert after.sum() <= part * before.sum() * (1 + 1e-4)
    assert rounded.codes.shape == WEIGHT.shape and rounded.codes.min() >= -8 and rounded.codes.max() <= 7
    assert rounded.scales.shape == (INPUTS // BLOCK, OUTPUTS)


def test_inputs_that_have_nothing_in_common_are_rounded_as_by_the_search() -> None:
    products = products_of("apart")
    rounded = gptq_rounding(products, BLOCK)(WEIGHT)
    searched = round_to_4_bits(WEIGHT, BLOCK, np.diag(products))
    assert np.mean(rounded.codes == searched.codes) > 0.99
