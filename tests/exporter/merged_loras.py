"""LoRA files for nano, and processes that merge them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from omnigen2_rt.runtime.files.safetensors_header import tensor_locations
from omnigen2_rt.runtime.pipeline import NANO
from tests.commands.processes import ROOT

MODULES = ("layers.0.attn.to_q", "layers.1.attn.to_out.0", "context_refiner.0.attn.to_k", "norm_out.linear_1")
"""Modules of three components."""
RANK = 4

MERGING_PROCESS = """
import os, signal, sys
from pathlib import Path
from omnigen2_rt.exporter.lora_bundle import Lora, merged_bundle
from omnigen2_rt.runtime.pipeline import NANO
file, store, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
def show(done, total, what):
    if what == moment and done >= total // 2:
        os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
sys.stdin.readline()
merged = merged_bundle(NANO, [Lora(path=file)], folder=store, progress=show)
print(merged.is_new, merged.path)
"""


def nano_lora(file: Path, seed: int = 0, modules: tuple[str, ...] = MODULES, strength: float = 0.1) -> Path:
    """Write a LoRA that changes these modules of nano."""
    random = np.random.default_rng(seed)
    places = tensor_locations(NANO / "transformer")
    tensors = {}
    for module in modules:
        out, inner = places[f"{module}.weight"].shape
        for side, shape in (("lora_A", (RANK, inner)), ("lora_B", (out, RANK))):
            tensors[f"transformer.{module}.{side}.weight"] = (strength * random.standard_normal(shape)).astype(np.float32)
    save_file(tensors, file)
    return file


def merging_process(file: Path, store: Path, killed_at: str = "never") -> subprocess.Popen[str]:
    """A process that prints "ready", waits for a line, merges a LoRA into nano, and prints whether it made the bundle, and where.

    killed_at: the phase halfway through which it kills itself.
    """
    words = [sys.executable, "-c", MERGING_PROCESS, str(file), str(store), killed_at]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


def killed_merge(file: Path, store: Path, phase: str) -> None:
    """Let a process begin to merge, and be killed halfway through a phase."""
    process = merging_process(file, store, phase)
    _, said = process.communicate("\n")
    assert process.returncode == -signal.SIGKILL, said


def files_below(folder: Path) -> dict[str, os.stat_result]:
    """The state of each file below a folder by its name."""
    return {path.relative_to(folder).as_posix(): path.lstat() for path in folder.rglob("*") if not path.is_dir()}
