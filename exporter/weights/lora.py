"""Merges LoRA files into the weights: only the tensors that a LoRA touches are written anew, in float32.

Reads what diffusers (and with it OmniGen2's own training), PEFT and Kohya's trainers write: for a module, down (r, in) and up
(out, r). The merged weight is W + scale · factor · up down, where the factor is alpha / r (see lora_strength.py).
Float32, because a small change added to a bfloat16 weight would mostly be rounded away.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.dtypes import PRECISIONS
from ...runtime.errors import ExportError
from ...runtime.files.hashes import file_hash
from ...runtime.files.safetensors_header import TensorLocation
from ...runtime.manifest import MergedLora
from ...runtime.progress import Progress, no_progress
from .lora_file import PEFT_CONFIG, LoraFile, lora_file, lora_values, read_lora
from .tensor_file import NewTensor, read_tensor, write_tensors

__all__ = ["MERGED_WEIGHTS", "Lora", "LoraReport", "identify_lora", "lora_file", "merge_lora", "merge_loras", "report_lora"]

MERGED_WEIGHTS = "transformer/merged_lora.safetensors"
"""The file of merged weights in a bundle."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA to merge.

    path: a safetensors file, or a folder with pytorch_lora_weights.safetensors or adapter_model.safetensors.
    scale: multiplies its change. Raises ExportError where it isn't finite.
    """

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not math.isfinite(self.scale):
            raise ExportError(f"the LoRA's scale, {self.scale}, is not a finite number")


@dataclass(frozen=True, kw_only=True)
class LoraReport:
    """The modules that a LoRA changes, and by which factors.

    modules: the number of modules.
    factors: the smallest and the largest of the file's own, such as alpha / r; `scale` multiplies them.
    """

    path: Path
    modules: int
    scale: float
    factors: tuple[float, float]

    def __str__(self) -> str:
        """The line for a person."""
        low, high = self.factors
        own = f"{low:g}" if low == high else f"from {low:g} to {high:g}"
        total = f" = {self.scale * low:g}" if low == high else ""
        return f"LoRA {self.path.name}: {self.modules} modules, scale {self.scale:g} × the file's own factor {own}{total}"


def merge_lora(
    file: Path, scale: float, locations: Mapping[str, TensorLocation], target: Path
) -> dict[str, TensorLocation]:
    """Merge one LoRA, see `merge_loras`."""
    return merge_loras([Lora(path=file, scale=scale)], locations, target)


def identify_lora(lora: Lora) -> MergedLora:
    """The manifest's entry for a LoRA: its name, the hashes of what it is read from, and its scale. Raises ExportError."""
    file = lora_file(lora.path)
    settings = file.with_name(PEFT_CONFIG)
    try:
        return MergedLora(
            name=Path(os.path.abspath(lora.path)).name.encode("utf-8", "backslashreplace").decode(),
            sha256=file_hash(file),
            scale=float(lora.scale),
            settings_sha256=file_hash(settings) if settings.is_file() else None,
        )
    except OSError as error:
        raise ExportError(f"LoRA {str(file)!r} can't be read: {error.strerror or error}") from error


def merge_loras(
    loras: Sequence[Lora],
    locations: Mapping[str, TensorLocation],
    target: Path,
    precisions: Iterable[str] = ("fp32",),
    progress: Progress = no_progress,
) -> dict[str, TensorLocation]:
    """Merge LoRAs into the transformer's weights, one after another, and write the changed ones to `target`.

    precisions: those that the weights will be converted to. progress: called for each weight.
    Returns `locations` with the places of the changed weights. Raises ExportError where a file isn't a LoRA for this transformer,
    and where a merged weight leaves the range of a precision.
    """
    files = [(lora.scale, read_lora(lora.path, locations)) for lora in loras]
    modules = dict.fromkeys(module for _, file in files for module in file.pairs)
    merged = {f"{module}.weight": _merged(module, files, locations, tuple(precisions)) for module in modules}
    return {**locations, **write_tensors(target, merged, lambda done: progress(done, len(merged), "merging LoRAs"))}


def report_lora(lora: Lora, locations: Mapping[str, TensorLocation]) -> LoraReport:
    """The report of a LoRA. Raises ExportError where it isn't one for the transformer whose tensors these are."""
    factors = sorted(read_lora(lora.path, locations).factors.values())
    return LoraReport(path=lora.path, modules=len(factors), scale=lora.scale, factors=(factors[0], factors[-1]))


def _merged(
    module: str,
    files: Sequence[tuple[float, LoraFile]],
    locations: Mapping[str, TensorLocation],
    precisions: Sequence[str],
) -> NewTensor:
    place = locations[f"{module}.weight"]

    def values() -> np.ndarray:
        total = _base_weight(place)
        for scale, file in files:
            if module in file.pairs:
                down, up = (lora_values(side).astype(np.float32) for side in file.pairs[module])
                with np.errstate(over="ignore", invalid="ignore"):  # the check below says so
                    change = up @ down
                    change *= np.float32(scale * file.factors[module])
                    total += change
        _check_range(module, total, precisions)
        return total

    return NewTensor(dtype="F32", shape=place.shape, values=values)


def _base_weight(place: TensorLocation) -> np.ndarray:
    try:
        return read_tensor(place).astype(np.float32)
    except (OSError, ValueError) as error:  # ValueError: it is shorter than its header says
        raise ExportError(f"{str(place.path)!r} can't be read: {getattr(error, 'strerror', None) or error}") from error


def _check_range(module: str, values: np.ndarray, precisions: Sequence[str]) -> None:
    """Raises ExportError where a value, rounded to a precision, isn't finite.

    Rounding keeps the order of values: the smallest and the largest are enough, which are NaN where any value is.
    """
    extremes = np.array([values.min(), values.max()])
    for precision in precisions:
        with np.errstate(over="ignore"):
            rounded = extremes.astype(PRECISIONS[precision].numpy).astype(np.float32)
        if not np.isfinite(rounded).all():
            raise ExportError(f"merged into {module!r}, the LoRA gives numbers beyond {precision}: use a smaller scale")
