"""Runs the GPU kernel in Triton's interpreter, on the CPU. A script, because the interpreter must be chosen before
Triton's import.

    TRITON_INTERPRET=1 python -m tests.plugins.interpreted_kernel '[{"batch": 1, …}, …]' out.npz

Writes each case's output, in order, as float32.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from omnigen2_rt.plugins.omni_rope.kernel import Tactic, omni_rope
from tests.plugins.cases import EPSILON, Case, inputs

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def run(case: Case) -> npt.NDArray[np.float32]:
    sample = inputs(case)
    rotated = omni_rope(
        tensor(sample.x, case.dtype),
        tensor(sample.weight, case.weight_dtype),
        torch.from_numpy(sample.cos),
        torch.from_numpy(sample.sin),
        EPSILON,
        tactic=Tactic(rows=case.rows, warps=8),
    )
    assert rotated.dtype is TORCH_DTYPES[case.dtype]
    array: npt.NDArray[np.float32] = rotated.float().numpy()
    return array


def tensor(array: npt.NDArray[Any], dtype: str) -> torch.Tensor:
    """Converts through float32, which represents the narrow types exactly: torch cannot read numpy's bfloat16."""
    return torch.from_numpy(array.astype(np.float32)).to(TORCH_DTYPES[dtype])


if __name__ == "__main__":
    cases = [Case(**fields) for fields in json.loads(sys.argv[1])]
    np.savez(sys.argv[2], *[run(case) for case in cases])
