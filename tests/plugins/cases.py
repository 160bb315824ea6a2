"""Inputs of the operator, equal in every process: seeded values, and shapes that reveal mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

DTYPES: dict[str, type[Any]] = {"fp32": np.float32, "fp16": np.float16, "bf16": ml_dtypes.bfloat16}

EPSILON = 1e-5


@dataclass(frozen=True)
class Case:
    """One call: the shape of x, the dtypes of x and weight, and the kernel's tactic."""

    batch: int
    tokens: int
    heads: int
    width: int
    dtype: str = "fp32"
    weight_dtype: str = "fp32"
    rows: int = 2

    def __str__(self) -> str:
        shape = f"{self.batch}x{self.tokens}x{self.heads}x{self.width}"
        return f"{shape}-{self.dtype}-{self.weight_dtype}-rows{self.rows}"


@dataclass(frozen=True)
class Inputs:
    x: npt.NDArray[Any]
    weight: npt.NDArray[Any]
    cos: npt.NDArray[np.float32]
    sin: npt.NDArray[np.float32]


def inputs(case: Case) -> Inputs:
    """Heads of very different magnitudes, which reveal a norm over the wrong axis, and angles from the whole circle."""
    random = np.random.default_rng(20250623)
    x = random.standard_normal((case.batch, case.tokens, case.heads, case.width))
    x *= 2.0 ** random.integers(-4, 4, size=(case.batch, case.tokens, case.heads, 1))
    angle = random.uniform(-np.pi, np.pi, size=(case.tokens, case.width // 2))
    return Inputs(
        x=x.astype(DTYPES[case.dtype]),
        weight=random.uniform(0.5, 1.5, size=case.width).astype(DTYPES[case.weight_dtype]),
        cos=np.cos(angle).astype(np.float32),
        sin=np.sin(angle).astype(np.float32),
    )
