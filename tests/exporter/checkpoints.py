"""Copies of a golden checkpoint that a test may damage, and the smallest export of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from omnigen2_rt.exporter import export
from omnigen2_rt.exporter.components.denoising import timestep_embedding, velocity_head
from tests.exporting import GOLDENS

A = GOLDENS / "A" / "checkpoint"
B = GOLDENS / "B" / "checkpoint"
TRANSFORMER = Path("transformer/diffusion_pytorch_model.safetensors")


def copied(source: Path, tmp: Path) -> Path:
    """A copy of a checkpoint of its own bytes."""
    return Path(shutil.copytree(source, tmp / "checkpoint"))


def edit_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_tensors(file: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> None:
    """Rewrite a safetensors file of float32 tensors."""
    save_file(change(load_file(file)), file)


def few_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports make two small graphs, so that a test of something else takes a second."""
    monkeypatch.setattr(export, "COMPONENTS", (timestep_embedding, velocity_head))
