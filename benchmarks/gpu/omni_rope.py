"""Omni-RoPE on a GPU: the kernel's error, and its speed compared with that of memory.

    python benchmarks/gpu/omni_rope.py                      # on a machine with an NVIDIA GPU, torch and triton
    python benchmarks/gpu/omni_rope.py --device cpu --tiny  # in Triton's interpreter: only tests this script

Prints one JSON document. For each shape of OmniGen2's attention (21 query heads, 7 key heads, width 120, bfloat16, at
1024 x 1024 pixels without and with two references): the kernel's error against the numpy definition, then the time of

- every tactic of the kernel, as Triton compiles it for this GPU,
- the PTX that a TensorRT engine carries, compiled for sm_80 and loaded by the driver,
- the same norm, rotation and transpose in torch, eager and compiled,
- a copy of x to a tensor of the output's size, the lower bound for any implementation.

Exits with 1 where the error of the kernel or the PTX is above one step of bfloat16.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

EPSILON = 1e-5
FULL = [(1, 4200, 21, 120), (1, 4200, 7, 120), (1, 12500, 21, 120), (1, 12500, 7, 120)]
TINY = [(2, 5, 3, 24), (1, 9, 7, 120)]
COPY_BYTES = {"cuda": 1 << 30, "cpu": 1 << 20}
PTX_SM = 80


@dataclass(frozen=True)
class Inputs:
    x: torch.Tensor
    weight: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def __iter__(self) -> Any:
        return iter((self.x, self.weight, self.cos, self.sin))

    @property
    def moved_bytes(self) -> int:
        """Bytes of reading each input once and writing the output once."""
        return sum(tensor.nbytes for tensor in self) + self.x.nbytes


def inputs(shape: tuple[int, int, int, int], device: str) -> Inputs:
    random = torch.Generator().manual_seed(20250623)
    _, tokens, _, width = shape
    angle = torch.rand(tokens, width // 2, generator=random) * 2 * torch.pi
    return Inputs(
        x=torch.randn(shape, generator=random).to(device, torch.bfloat16),
        weight=(torch.rand(width, generator=random) + 0.5).to(device, torch.bfloat16),
        cos=angle.cos().to(device),
        sin=angle.sin().to(device),
    )


def torch_chain(x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    normalized = F.rms_norm(x.float(), (x.shape[-1],), weight.float(), EPSILON)
    even, odd = normalized[..., 0::2], normalized[..., 1::2]
    cos, sin = cos[None, :, None, :], sin[None, :, None, :]
    pairs = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return pairs.flatten(-2).to(x.dtype).transpose(1, 2).contiguous()


def difference(rotated: torch.Tensor, sample: Inputs) -> dict[str, float]:
    """The error against the numpy definition. A step is the gap between neighbouring bfloat16 numbers at the value."""
    import ml_dtypes

    from omnigen2_rt.plugins.omni_rope.definition import omni_rope

    x, weight = (tensor.float().cpu().numpy().astype(ml_dtypes.bfloat16) for tensor in (sample.x, sample.weight))
    expected = omni_rope(x, weight, sample.cos.cpu().numpy(), sample.sin.cpu().numpy(), EPSILON).astype(np.float32)
    actual = rotated.float().cpu().numpy()
    step = np.exp2(np.floor(np.log2(np.maximum(np.abs(expected), 2.0**-7))) - 7)
    return {
        "max_abs": float(np.abs(actual - expected).max()),
        "max_steps": float((np.abs(actual - expected) / step).max()),
        "unequal_share": float((actual != expected).mean()),
    }


def seconds(call: Callable[[], Any], device: str) -> float:
    """The median time of many calls, each with a cold cache."""
    if device == "cuda":
        from triton.testing import do_bench

        return float(do_bench(call, warmup=50, rep=200, return_mode="median")) / 1e3
    times = []
    for _ in range(3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class PtxLauncher:
    """Launches the engine's PTX through the CUDA driver with exactly the arguments that TensorRT passes."""

    def __init__(self, heads: int, width: int) -> None:
        from omnigen2_rt.plugins.omni_rope.kernel import compile_ptx

        self.kernel = compile_ptx(dtype="bf16", heads=heads, width=width, epsilon=EPSILON, sm=PTX_SM)
        self.driver = ctypes.CDLL("libcuda.so.1")
        module, self.function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.driver.cuModuleLoadData(ctypes.byref(module), self.kernel.ptx.encode()))
        self.check(self.driver.cuModuleGetFunction(ctypes.byref(self.function), module, self.kernel.name.encode()))

    def check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"the CUDA driver returned error {status}")

    def __call__(self, sample: Inputs, out: torch.Tensor) -> torch.Tensor:
        batch, tokens, _, _ = sample.x.shape
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (*sample, out)]
        values = [*pointers[:4], ctypes.c_int32(tokens), pointers[4]]
        arguments = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        grid = (-(-tokens // self.kernel.rows), batch, 1)
        block = (self.kernel.block_threads, 1, 1)
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        launch = self.driver.cuLaunchKernel
        self.check(launch(self.function, *grid, *block, self.kernel.shared_bytes, stream, arguments, None))
        return out


def measure(shape: tuple[int, int, int, int], device: str) -> dict[str, Any]:
    from omnigen2_rt.plugins.omni_rope.kernel import TACTICS, omni_rope

    sample = inputs(shape, device)
    batch, tokens, heads, width = shape
    out = sample.x.new_empty((batch, heads, tokens, width))
    calls: dict[str, Callable[[], torch.Tensor]] = {
        f"kernel rows={tactic.rows} warps={tactic.warps}": lambda tactic=tactic: omni_rope(
            *sample, EPSILON, tactic=tactic
        )
        for tactic in TACTICS
    }
    if device == "cuda":
        launcher = PtxLauncher(heads, width)
        calls[f"ptx sm_{PTX_SM}"] = lambda: launcher(sample, out)
    errors = {name: difference(call(), sample) for name, call in calls.items()}

    calls["torch eager"] = lambda: torch_chain(*sample)
    if device == "cuda":
        compiled = torch.compile(torch_chain, dynamic=False)
        calls["torch compiled"] = lambda: compiled(*sample)
    calls["copy of x"] = lambda: out.view(sample.x.shape).copy_(sample.x)
    times = {name: seconds(call, device) for name, call in calls.items()}
    return {
        "shape": dict(zip(("batch", "tokens", "heads", "width"), shape, strict=True)),
        "moved_bytes": sample.moved_bytes,
        "difference_from_meaning": errors,
        "microseconds": {name: time_s * 1e6 for name, time_s in times.items()},
        "gigabytes_per_second": {name: sample.moved_bytes / time_s / 1e9 for name, time_s in times.items()},
    }


def copy_gigabytes_per_second(device: str) -> float:
    """The rate of a large copy, counting reads and writes."""
    source = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds(lambda: target.copy_(source), device) / 1e9


def machine(device: str) -> dict[str, Any]:
    import triton

    facts: dict[str, Any] = {
        "device": device,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "numpy": np.__version__,
    }
    if device == "cuda":
        command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        facts["gpu_and_driver"] = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        facts["compute_capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
        facts["cuda"] = torch.version.cuda
    return facts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, for the interpreter")
    options = parser.parse_args()
    if options.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # before Triton's import, which is therefore inside the functions
    elif not torch.cuda.is_available():
        parser.error("torch finds no CUDA GPU here; --device cpu --tiny tests the script without one")
    shapes = [measure(shape, options.device) for shape in (TINY if options.tiny else FULL)]
    result = {
        "benchmark": "omni_rope",
        "machine": machine(options.device),
        "copy_gigabytes_per_second": copy_gigabytes_per_second(options.device),
        "shapes": shapes,
    }
    print(json.dumps(result, indent=2))
    steps = [errors["max_steps"] for entry in shapes for errors in entry["difference_from_meaning"].values()]
    return 0 if max(steps) <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
