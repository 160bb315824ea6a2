"""Rounding to 4 bits input after input, where the inputs still to come make good what the last ones lost. Numpy only.

GPTQ (arXiv 2210.17323, section 3) with the scales and zero points of rounding.py, which are searched when a block's turn
comes. A weight here is (K, N) float32: K inputs, N outputs; the block divides K.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .rounding import Floats, Rounded, codes_4, round_to_4_bits

DAMPING = 0.01
"""Added to the products of each input with itself, in parts of their mean: directions that were hardly seen stay bounded."""


def rounding_for(products: Floats, block: int) -> Callable[[Floats], Rounded]:
    """What rounds any weight that is multiplied with these inputs. products: (K, K), the mean of x_i x_j over what came in."""
    damped = products.astype(np.float64)
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices_from(damped)] += DAMPING * mean or 1.0
    # Row k says how the inputs after k make good an error in k. The inverse is U^T U with U upper triangular.
    makes_good = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)

    def rounded(weight: Floats) -> Rounded:
        plain = round_to_4_bits(weight, block, np.diag(products))
        found = _round(weight, block, makes_good)
        better = _error(found, weight, products) < _error(plain, weight, products)
        assert found.zero_points is not None and plain.zero_points is not None
        return Rounded(
            codes=np.where(better, found.codes, plain.codes),
            scales=np.where(better, found.scales, plain.scales),
            zero_points=np.where(better, found.zero_points, plain.zero_points),
        )

    return rounded


def _round(weight: Floats, block: int, makes_good: Floats) -> Rounded:
    left = weight.copy()
    codes = np.empty(weight.shape, np.uint8)
    scales, zeros = [], []
    for start in range(0, len(weight), block):
        part, upper = left[start : start + block], makes_good[start : start + block]
        own = upper[:, start : start + block]
        grid = round_to_4_bits(part, block, (1 / np.diag(own) ** 2).astype(np.float32))
        assert grid.zero_points is not None
        scale, zero = grid.scales[0], grid.zero_points[0].astype(np.float32)
        lost = np.empty_like(part)
        for k in range(block):
            code = codes_4(part[k], scale, zero)
            lost[k] = (part[k] - (code - zero) * scale) / own[k, k]
            part[k + 1 :] -= own[k, k + 1 :, None] * lost[k]
            codes[start + k] = code
        left[start + block :] -= upper[:, start + block :].T @ lost
        scales.append(grid.scales[0])
        zeros.append(grid.zero_points[0])
    return Rounded(codes=codes, scales=np.stack(scales), zero_points=np.stack(zeros))


def _error(rounded: Rounded, weight: Floats, products: Floats) -> NDArray[np.float32]:
    """(N,): the mean square error of each output."""
    lost = rounded.values() - weight
    error: NDArray[np.float32] = (lost * (products @ lost)).sum(axis=0)
    return error
