"""4-bit rounding with error compensation: the rounding error of an input changes the weights of the inputs after it. Numpy only.

GPTQ (arXiv 2210.17323, section 3) with the scales of rounding.py, which are searched block by block. A weight
here is (K, N) float32: K inputs, N outputs; the block divides K.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .rounding import Floats, Rounded, codes_4, round_to_4_bits

DAMPING = 0.01
"""Added to the diagonal of the products, as a part of its mean: bounds directions with little data."""


def gptq_rounding(products: Floats, block: int) -> Callable[[Floats], Rounded]:
    """Returns a function that rounds the weight of these inputs. products: (K, K), the mean of x_i x_j."""
    compensation = _compensation(products)

    def rounded(weight: Floats) -> Rounded:
        plain = round_to_4_bits(weight, block, np.diag(products))
        compensated = _round(weight, block, compensation)
        better = _error(compensated, weight, products) < _error(plain, weight, products)
        return Rounded(
            codes=np.where(better, compensated.codes, plain.codes),
            scales=np.where(better, compensated.scales, plain.scales),
        )

    return rounded


def _compensation(products: Floats) -> Floats:
    """U of (products + damping)^-1 = U^T U, upper triangular: row k holds how the inputs after k compensate an error in k."""
    damped = products.astype(np.float64)
    mean = float(np.trace(damped)) / len(damped)
    damped[np.diag_indices_from(damped)] += DAMPING * mean or 1.0
    return np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)


def _round(weight: Floats, block: int, compensation: Floats) -> Rounded:
    remaining = weight.copy()
    codes = np.empty(weight.shape, np.int8)
    scales = []
    for start in range(0, len(weight), block):
        part, upper = remaining[start : start + block], compensation[start : start + block]
        own = upper[:, start : start + block]
        scale = round_to_4_bits(part, block, (1 / np.diag(own) ** 2).astype(np.float32)).scales[0]
        errors = np.empty_like(part)
        for k in range(block):
            code = codes_4(part[k], scale)
            errors[k] = (part[k] - code * scale) / own[k, k]
            part[k + 1 :] -= own[k, k + 1 :, None] * errors[k]
            codes[start + k] = code
        remaining[start + block :] -= upper[:, start + block :].T @ errors
        scales.append(scale)
    return Rounded(codes=codes, scales=np.stack(scales))


def _error(rounded: Rounded, weight: Floats, products: Floats) -> NDArray[np.float32]:
    """(N,): the mean square error of each output."""
    difference = rounded.values() - weight
    error: NDArray[np.float32] = (difference * (products @ difference)).sum(axis=0)
    return error
