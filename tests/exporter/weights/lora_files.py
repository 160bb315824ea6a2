"""LoRA files for the tiny checkpoint A: in any tool's names, and how strongly a merge applies them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from omnigen2_rt.exporter.weights.lora import merge_lora
from omnigen2_rt.exporter.weights.tensor_file import read_tensor
from omnigen2_rt.runtime.files.safetensors_header import TensorLocation, tensor_locations
from tests.exporter.checkpoints import A

MODULE = "layers.0.attn.to_out.0"
RANK = 4
Tensors = dict[str, np.ndarray]


@cache
def places() -> dict[str, TensorLocation]:
    """The tensors of A's transformer."""
    return tensor_locations(A / "transformer")


def pair(module: str = MODULE, rank: int = RANK) -> tuple[np.ndarray, np.ndarray]:
    """Down and up for a module."""
    rng = np.random.default_rng(5)
    out, inner = places()[f"{module}.weight"].shape
    return rng.standard_normal((rank, inner)).astype(np.float32), rng.standard_normal((out, rank)).astype(np.float32)


def lora(
    folder: Path,
    name: str = MODULE,
    *,
    sides: tuple[str, str] = ("lora_A.weight", "lora_B.weight"),
    file: str = "lora.safetensors",
    metadata: dict[str, str] | None = None,
    adapter_config: dict[str, Any] | None = None,
    more: Tensors | None = None,
) -> Path:
    """A file of one pair under a module's name, with PEFT's settings beside it where they are given."""
    down, up = pair()
    folder.mkdir(exist_ok=True)
    save_file({f"{name}.{sides[0]}": down, f"{name}.{sides[1]}": up, **(more or {})}, folder / file, metadata)
    if adapter_config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(adapter_config))
    return folder / file


def strength(file: Path, folder: Path) -> float:
    """The factor by which merging adds up · down to MODULE."""
    merged = merge_lora(file, 1.0, places(), folder / "merged.safetensors")
    weight = f"{MODULE}.weight"
    change = read_tensor(merged[weight]) - read_tensor(places()[weight]).astype(np.float32)
    down, up = pair()
    return float((change * (up @ down)).sum() / ((up @ down) ** 2).sum())
