"""Copies of a golden checkpoint that a test may damage, and the smallest export of one."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from omnigen2_rt.exporter import export
from omnigen2_rt.exporter.components.diffusion_transformer import timestep_embedding, velocity_head
from omnigen2_rt.runtime.dtypes import BY_SAFETENSORS
from omnigen2_rt.runtime.files.safetensors_header import tensor_locations
from tests.exporting import GOLDENS

A = GOLDENS / "A" / "checkpoint"
B = GOLDENS / "B" / "checkpoint"
FEW = (timestep_embedding, velocity_head)
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


def scaled_weight(bundle: Path, tmp: Path, name: str, factor: float) -> Path:
    """A copy of a bundle in which one of the transformer's weights is multiplied: same sizes, same headers."""
    copy = Path(shutil.copytree(bundle, tmp / "altered"))
    place = tensor_locations(copy / "transformer")[name]
    values = np.memmap(place.path, BY_SAFETENSORS[place.dtype].numpy, "r+", place.offset, place.shape)
    values *= values.dtype.type(factor)
    values.flush()
    return copy


def in_hub_layout(source: Path, cache: Path, owner: str, name: str) -> Path:
    """A checkpoint as huggingface_hub keeps it: blobs, and a snapshot of links to them. Returns the snapshot."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    root = cache / f"models--{owner}--{name}"
    snapshot = root / "snapshots" / revision
    (root / "blobs").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(revision)
    for k, file in enumerate(sorted(path for path in source.rglob("*") if path.is_file())):
        blob, link = root / "blobs" / f"{k:040x}", snapshot / file.relative_to(source)
        shutil.copyfile(file, blob)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def few_components(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `omnigen2 export` write two small graphs, so that a test of something else takes a second."""
    monkeypatch.setattr(export, "COMPONENTS", FEW)
