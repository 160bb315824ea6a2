"""Merges LoRA files into the weights: only the tensors that a LoRA touches are written anew, in float32.

Reads the diffusers/PEFT form that OmniGen2's own training writes: `transformer.<module>.lora_A.weight` (r, in) and
`lora_B.weight` (out, r). The merged weight is W + scale · alpha / r · B A; without an alpha, alpha is r (as diffusers does).
Float32, because a small change added to a bfloat16 weight would mostly be rounded away.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ...runtime.errors import ExportError
from ...runtime.files.safetensors_header import TensorLocation, read_header
from .tensor_file import WEIGHT_DTYPES, NewTensor, read_tensor, write_tensors

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
KEY = re.compile(
    r"(?:base_model\.model\.|transformer\.|diffusion_model\.)*(?P<module>.+?)\."
    r"(?:lora_(?P<side>A|B|down|up)(?:\.[^.]+)?\.weight|(?P<alpha>alpha))"
)


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA to merge.

    path: a safetensors file, or a folder with pytorch_lora_weights.safetensors.
    scale: multiplies its change. Raises ExportError where it isn't finite.
    """

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ExportError(f"the LoRA's scale, {self.scale}, is not a finite number")


def merge_lora(
    file: Path, scale: float, locations: Mapping[str, TensorLocation], target: Path
) -> dict[str, TensorLocation]:
    """Merge a LoRA into the transformer's weights, writing the changed ones to `target`; returns `locations` with their places.

    file: a safetensors file, or a folder with pytorch_lora_weights.safetensors.
    Raises ExportError where the file isn't a LoRA for this transformer.
    """
    check_lora(file, locations)
    pairs, alphas = _read(lora_file(file))
    merged = {
        f"{module}.weight": _merged(locations[f"{module}.weight"], down, up, scale * alphas.get(module, 1.0))
        for module, (down, up) in pairs.items()
    }
    return {**locations, **write_tensors(target, merged)}


def check_lora(file: Path, locations: Mapping[str, TensorLocation]) -> None:
    """Raises ExportError where the file isn't a LoRA for the transformer whose tensors these are."""
    pairs, _ = _read(lora_file(file))
    for module, (down, up) in pairs.items():
        _check(module, down, up, locations)


def lora_file(path: Path) -> Path:
    """The LoRA's safetensors file: `path`, or the one in that folder. Raises ExportError where there is none."""
    file = path / DIFFUSERS_FILE if path.is_dir() else path
    if not file.is_file():
        raise ExportError(f"LoRA {str(file)!r} does not exist")
    return file


def _merged(place: TensorLocation, down: TensorLocation, up: TensorLocation, factor: float) -> NewTensor:
    def values() -> np.ndarray:
        change = read_tensor(up).astype(np.float32) @ read_tensor(down).astype(np.float32)
        total: np.ndarray = read_tensor(place).astype(np.float32) + np.float32(factor) * change
        return total

    return NewTensor(dtype="F32", shape=place.shape, values=values)


def _read(path: Path) -> tuple[dict[str, tuple[TensorLocation, TensorLocation]], dict[str, float]]:
    """(down, up), and alpha / r, by module name."""
    tensors, metadata = _read_file(path)
    sides, alphas = _by_module(path, tensors)
    others = sorted({module for module, pair in sides.items() for side in pair.values() if not _is_matrix(side)})
    if others:
        raise ExportError(f"LoRA {str(path)!r} has something other than two matrices for {', '.join(others)}")
    incomplete = sorted(module for module, pair in sides.items() if len(pair) != 2)
    if incomplete or not sides:
        raise ExportError(f"LoRA {str(path)!r} has no pair of lora_A and lora_B for {', '.join(incomplete) or 'any module'}")
    pairs = {module: (pair["down"], pair["up"]) for module, pair in sides.items()}
    default = _metadata_alpha(metadata, path)
    ranks = {module: down.shape[0] for module, (down, _) in pairs.items()}
    return pairs, {module: alphas.get(module, default or rank) / rank for module, rank in ranks.items()}


def _read_file(path: Path) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    try:
        tensors = read_header(path)
        with safe_open(path, framework="np") as opened:
            metadata = opened.metadata() or {}
    except (ValueError, SafetensorError) as error:
        raise ExportError(f"LoRA {str(path)!r} can't be read: {error}") from error
    unknown = sorted({tensor.dtype for tensor in tensors.values()} - {*WEIGHT_DTYPES})
    if unknown:
        raise ExportError(f"LoRA {str(path)!r} holds {', '.join(unknown)}; allowed are {', '.join(WEIGHT_DTYPES)}")
    return tensors, metadata


def _by_module(
    path: Path, tensors: Mapping[str, TensorLocation]
) -> tuple[dict[str, dict[str, TensorLocation]], dict[str, float]]:
    """The matrices as "down" and "up", and the alphas."""
    sides: dict[str, dict[str, TensorLocation]] = {}
    alphas: dict[str, float] = {}
    for name, tensor in tensors.items():
        match = KEY.fullmatch(name)
        if match is None:
            raise ExportError(f"LoRA {str(path)!r} has the tensor {name!r}; lora_A, lora_B and alpha are supported")
        if match["alpha"]:
            alphas[match["module"]] = _alpha(name, tensor, path)
        else:
            sides.setdefault(match["module"], {})["down" if match["side"] in ("A", "down") else "up"] = tensor
    return sides, alphas


def _is_matrix(tensor: TensorLocation) -> bool:
    return len(tensor.shape) == 2 and 0 not in tensor.shape


def _alpha(name: str, tensor: TensorLocation, path: Path) -> float:
    if math.prod(tensor.shape) != 1:
        raise ExportError(f"LoRA {str(path)!r} has {name!r} of shape {tensor.shape}; an alpha is one number")
    return float(read_tensor(tensor).item())


def _metadata_alpha(metadata: Mapping[str, str], path: Path) -> float | None:
    """The alpha of all modules that newer versions of diffusers write into the metadata, or None."""
    text = metadata.get("lora_adapter_metadata")
    if text is None:
        return None
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise ExportError(f"LoRA {str(path)!r} has metadata that is not JSON: {error}") from error
    if not isinstance(settings, dict):
        raise ExportError(f"LoRA {str(path)!r} has metadata that is not a JSON object")
    if any(settings.get(f"transformer.{key}") for key in ("alpha_pattern", "rank_pattern", "use_dora")):
        raise ExportError(f"LoRA {str(path)!r} sets alpha or rank by pattern, or is a DoRA: merge it with diffusers first")
    alpha = settings.get("transformer.lora_alpha")
    if alpha is not None and (isinstance(alpha, bool) or not isinstance(alpha, int | float)):
        raise ExportError(f"LoRA {str(path)!r} has the alpha {alpha!r} in its metadata, which is not a number")
    return None if alpha is None else float(alpha)


def _check(module: str, down: TensorLocation, up: TensorLocation, locations: Mapping[str, TensorLocation]) -> None:
    weight = locations.get(f"{module}.weight")
    if weight is None:
        raise ExportError(f"the LoRA changes {module!r}, which this transformer has not: is it for another model?")
    shape = (up.shape[0], down.shape[1])
    if shape != weight.shape or up.shape[1] != down.shape[0]:
        raise ExportError(f"the LoRA gives {module!r} a change of {shape}; the weight is {weight.shape}")
