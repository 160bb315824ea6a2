"""The GPU kernel: its numbers in Triton's interpreter, and its PTX for every architecture, both without a GPU."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from omnigen2_rt.plugins.omni_rope.definition import omni_rope
from tests.plugins.cases import EPSILON, Case, inputs
from tests.tensorrt_stubs import ROOT

if sys.platform != "linux":
    pytest.skip("Triton is built for Linux only", allow_module_level=True)

import torch
import triton

from omnigen2_rt.plugins.omni_rope import kernel as kernels
from omnigen2_rt.plugins.omni_rope.kernel import TACTICS, Kernel, Tactic, compile_ptx
from omnigen2_rt.plugins.omni_rope.ptx import ptx_parameters

CASES = [
    Case(1, 1, 1, 2),
    Case(2, 5, 3, 12),
    Case(3, 4, 7, 120, rows=4),
    Case(1, 9, 21, 120, rows=1),
    Case(2, 9, 21, 120, rows=4),
    Case(2, 3, 8, 64),
    Case(1, 6, 2, 22, rows=4),
    Case(2, 5, 7, 120, dtype="fp16", weight_dtype="fp16"),
    Case(2, 5, 3, 12, dtype="fp16", weight_dtype="fp32", rows=4),
    Case(2, 5, 7, 120, dtype="bf16", weight_dtype="bf16"),
    Case(1, 9, 21, 120, dtype="bf16", weight_dtype="fp32", rows=1),
]

TOLERANCE = {"fp32": 2e-6, "fp16": 2.0**-10, "bf16": 2.0**-7}
"""One step of each type: the interpreter truncates to bfloat16 where the GPU rounds (see the test of the PTX)."""

ARCHITECTURES = {80: "sm_80", 86: "sm_86", 89: "sm_89", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a"}


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[Case, np.ndarray]:
    """Every case's output, from one process with Triton's interpreter."""
    path = tmp_path_factory.mktemp("interpreted") / "out.npz"
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    cases = json.dumps([dataclasses.asdict(case) for case in CASES])
    command = [sys.executable, "-m", "tests.plugins.interpreted_kernel", cases, str(path)]
    finished = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    with np.load(path) as file:
        return {case: file[f"arr_{index}"] for index, case in enumerate(CASES)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_interpreted_equals_definition(case: Case, interpreted: dict[Case, np.ndarray]) -> None:
    sample = inputs(case)
    expected = omni_rope(sample.x, sample.weight, sample.cos, sample.sin, EPSILON).astype(np.float32)
    assert interpreted[case].shape == expected.shape
    tolerance = TOLERANCE[case.dtype]
    np.testing.assert_allclose(interpreted[case], expected, rtol=tolerance, atol=tolerance / 8)


def compiled(sm: int = 90, tactic: Tactic = TACTICS[0], epsilon: float = EPSILON, dtype: str = "bf16") -> Kernel:
    return compile_ptx(dtype=dtype, heads=21, width=120, epsilon=epsilon, sm=sm, tactic=tactic)


def assemble(ptx: str, sm: int, folder: Path) -> subprocess.CompletedProcess[str]:
    """NVIDIA's assembler, which comes with Triton."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    newer = tools / "ptxas-blackwell"
    tool = newer if sm >= 100 and newer.exists() else tools / "ptxas"
    (folder / "kernel.ptx").write_text(ptx)
    command = [
        str(tool),
        f"--gpu-name={ARCHITECTURES[sm]}",
        str(folder / "kernel.ptx"),
        "-o",
        str(folder / "kernel.cubin"),
    ]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_ptx_assembles_for_architecture(sm: int, tmp_path: Path) -> None:
    kernel = compiled(sm)
    assert re.search(rf"^\.target {ARCHITECTURES[sm]}$", kernel.ptx, re.MULTILINE)
    finished = assemble(kernel.ptx, sm, tmp_path)
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("sm", ARCHITECTURES)
def test_ptx_has_the_parameters_that_tensorrt_passes(sm: int) -> None:
    """Pointers to x, weight, cos, sin; the number of tokens; the pointer to the output. None of Triton's own."""
    assert ptx_parameters(compiled(sm).ptx) == ("u64", "u64", "u64", "u64", "u32", "u64")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("tactic", TACTICS, ids=str)
def test_ptx_of_every_tactic_is_the_kernel_it_names(tactic: Tactic, dtype: str) -> None:
    kernel = compiled(tactic=tactic, dtype=dtype)
    assert f".entry {kernel.name}(" in kernel.ptx
    assert f".reqntid {kernel.block_threads}" in kernel.ptx
    assert (kernel.rows, kernel.block_threads) == (tactic.rows, tactic.warps * 32)
    assert kernel.shared_bytes <= 512


def test_ptx_of_bfloat16_rounds_to_nearest() -> None:
    assert "cvt.rn.bf16x2.f32" in compiled(dtype="bf16").ptx


@pytest.mark.parametrize("heads", [7, 21])
def test_ptx_of_the_first_tactic_moves_16_bytes_at_a_time_without_a_barrier(heads: int) -> None:
    """A change of layout between load, split and store would show as shared memory and barriers, or as narrow loads."""
    ptx = compile_ptx(dtype="bf16", heads=heads, width=120, epsilon=EPSILON, sm=80).ptx
    moves = re.findall(r"\b(?:ld|st)\.global(?:\.\w+)*", ptx)
    assert moves and all(".v4.b32" in move for move in moves), moves
    assert "bar.sync" not in ptx and ".shared" not in ptx


def test_ptx_reveals_nothing_about_the_machine_that_compiled_it() -> None:
    ptx = compiled().ptx
    assert not re.search(r"\.loc|\.file|\.section|kernel\.py", ptx)


def test_name_differs_between_epsilons() -> None:
    assert compiled(epsilon=1e-5).name != compiled(epsilon=1e-6).name


def test_ptx_of_an_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="width=15: .* must be even"):
        compile_ptx(dtype="bf16", heads=21, width=15, epsilon=EPSILON, sm=90)


def test_ptx_of_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="'fp8' is none of fp32, fp16, bf16"):
        compile_ptx(dtype="bf16", weight_dtype="fp8", heads=21, width=120, epsilon=EPSILON, sm=90)


def test_kernel_of_a_short_table_is_refused() -> None:
    x, weight, table = torch.zeros(1, 5, 3, 12), torch.ones(12), torch.zeros(4, 6)
    with pytest.raises(ValueError, match=r"\(1, 5, 3, 12\), \(12,\), \(4, 6\), \(4, 6\): needed are"):
        kernels.omni_rope(x, weight, table, table, EPSILON)


def test_kernel_of_a_transposed_input_is_refused() -> None:
    x, weight, table = torch.zeros(1, 3, 5, 12).transpose(1, 2), torch.ones(12), torch.zeros(5, 6)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.omni_rope(x, weight, table, table, EPSILON)
