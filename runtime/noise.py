"""The starting noise: the numbers that PyTorch's CPU generator gives, drawn with numpy alone.

`torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))` in float32 has two paths (PyTorch,
aten/src/ATen/native/cpu/DistributionTemplates.h and core/DistributionsHelper.h), and so has this module. Both draw from
MT19937, which numpy seeds the same way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_GROUP = 16


def gaussian_noise(shape: Sequence[int], seed: int) -> NDArray[np.float32]:
    """Standard normal noise, equal to PyTorch's for that seed to 1e-6.

    shape: any. seed: >= 0; only its low 32 bits count. Returns an array of that shape, float32.
    """
    random = np.random.RandomState(seed & 0xFFFFFFFF)
    size = math.prod(shape)
    values = _in_groups(size, random) if size >= _GROUP else _one_by_one(size, random)
    return values.reshape(tuple(shape))


def _words(count: int, random: np.random.RandomState) -> NDArray[np.uint32]:
    """The generator's raw 32-bit outputs."""
    return random.randint(0, 2**32, size=count, dtype=np.uint32)


def _in_groups(size: int, random: np.random.RandomState) -> NDArray[np.float32]:
    """16 values or more: Box–Muller on groups of 16, the first half paired with the second.

    A last incomplete group is not filled up: PyTorch draws the final 16 values anew, over what is there already.
    """
    whole = size - size % _GROUP
    values = np.empty(size, np.float32)
    values[:whole] = _box_muller(_words(size, random)[:whole])
    if whole != size:
        values[-_GROUP:] = _box_muller(_words(_GROUP, random))
    return values


def _box_muller(words: NDArray[np.uint32]) -> NDArray[np.float32]:
    # float32 throughout, like the original: rounding the angle differently costs more than 1e-6 in the tails.
    uniform = ((words & 0xFFFFFF).astype(np.float32) * np.float32(2.0**-24)).reshape(-1, 2, _GROUP // 2)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - uniform[:, 0]))
    angle = np.float32(2 * math.pi) * uniform[:, 1]
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)


def _one_by_one(size: int, random: np.random.RandomState) -> NDArray[np.float32]:
    """Fewer than 16 values: Box–Muller in float64 from 53-bit uniforms, two values a draw."""
    pairs = -(-size // 2)
    high, low = _words(4 * pairs, random).astype(np.uint64).reshape(-1, 2).T
    uniform = (((high << np.uint64(32)) | low) & np.uint64(2**53 - 1)) * 2.0**-53
    angle, radius = 2 * math.pi * uniform[0::2], np.sqrt(-2 * np.log1p(-uniform[1::2]))
    values = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    return values[:size].astype(np.float32)
