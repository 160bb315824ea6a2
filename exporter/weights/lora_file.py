"""Reads a LoRA file: the two matrices of each module that it changes, and the factor of their product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from ...runtime.errors import ExportError
from ...runtime.files.safetensors_header import TensorLocation, read_header
from ..json_files import read_json
from .lora_names import LoraNames, lora_names
from .lora_strength import Statement, metadata_statements, module_factors, peft_statement
from .tensor_file import WEIGHT_DTYPES, read_tensor

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."

Pair = tuple[TensorLocation, TensorLocation]
"""Down (r, in) and up (out, r)."""


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA for a certain transformer.

    pairs, factors: by module.
    """

    pairs: dict[str, Pair]
    factors: dict[str, float]


def lora_file(path: Path) -> Path:
    """The LoRA's safetensors file: `path`, or the one in that folder. Raises ExportError where there is none or are two."""
    if not path.is_dir():
        files = [path]
    else:
        files = [path / name for name in (DIFFUSERS_FILE, PEFT_FILE) if (path / name).exists()]
        files = files or [path / DIFFUSERS_FILE]
    if len(files) > 1:
        raise ExportError(f"LoRA {str(path)!r} holds {DIFFUSERS_FILE} and {PEFT_FILE}: name the file that is meant")
    if not files[0].is_file():
        wanted = f" ({DIFFUSERS_FILE} or {PEFT_FILE} is expected in a folder)" if path.is_dir() else ""
        raise ExportError(f"LoRA {str(files[0])!r} does not exist{wanted}")
    return files[0]


def read_lora(path: Path, locations: Mapping[str, TensorLocation]) -> LoraFile:
    """Read a LoRA for the transformer whose tensors these are.

    path: a safetensors file, or a folder with one.
    Raises ExportError where it isn't one, names modules that the transformer has not, has numbers that aren't finite,
    or leaves its strength open.
    """
    file = lora_file(path)
    lora = repr(str(file))
    tensors, metadata = _read_tensors(lora, file)
    modules = [name.removesuffix(".weight") for name in locations if name.endswith(".weight")]
    names = lora_names(lora, tensors, modules)
    pairs = _pairs(lora, names, tensors)
    for module, (down, up) in pairs.items():
        _check_shapes(module, down, up, locations[f"{module}.weight"])
    if lonely := sorted(names.alphas.keys() - pairs.keys()):
        raise ExportError(f"LoRA {lora} has an alpha and no matrices for {', '.join(lonely[:3])}")
    alphas = {module: _alpha(lora, name, tensors[name]) for module, name in names.alphas.items()}
    _check_finite(lora, {name: tensors[name] for sides in names.sides.values() for name in sides.values()})
    ranks = {module: down.shape[0] for module, (down, _) in pairs.items()}
    statements = [*metadata_statements(lora, metadata), *_config_beside(lora, file, tensors)]
    return LoraFile(pairs=pairs, factors=module_factors(lora, ranks, alphas, statements))


def _read_tensors(lora: str, file: Path) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    try:
        tensors = read_header(file)
        with safe_open(file, framework="np") as opened:
            metadata = opened.metadata() or {}
    except (ValueError, SafetensorError) as error:
        raise ExportError(f"LoRA {lora} can't be read: {error}") from error
    unknown = sorted({tensor.dtype for tensor in tensors.values()} - {*WEIGHT_DTYPES})
    if unknown:
        raise ExportError(f"LoRA {lora} holds {', '.join(unknown)}; allowed are {', '.join(WEIGHT_DTYPES)}")
    return tensors, metadata


def _config_beside(lora: str, file: Path, tensors: Iterable[str]) -> list[Statement]:
    """The statement of PEFT's adapter_config.json, which belongs to a file of PEFT's name or names."""
    config = file.with_name(PEFT_CONFIG)
    if config.is_file() and (file.name == PEFT_FILE or any(PEFT_PREFIX in name for name in tensors)):
        return [peft_statement(lora, PEFT_CONFIG, read_json(config))]
    if file.name == PEFT_FILE:
        raise ExportError(f"LoRA {lora} lacks {PEFT_CONFIG} beside it, which says its strength: copy that too")
    return []


def _pairs(lora: str, names: LoraNames, tensors: Mapping[str, TensorLocation]) -> dict[str, Pair]:
    sides = {module: {side: tensors[name] for side, name in pair.items()} for module, pair in names.sides.items()}
    others = sorted({module for module, pair in sides.items() for side in pair.values() if not _is_matrix(side)})
    if others:
        raise ExportError(f"LoRA {lora} has something other than two matrices for {', '.join(others[:3])}")
    incomplete = sorted(module for module, pair in sides.items() if len(pair) != 2)
    if incomplete or not sides:
        raise ExportError(f"LoRA {lora} has no pair of lora_A and lora_B for {', '.join(incomplete[:3]) or 'any module'}")
    return {module: (pair["down"], pair["up"]) for module, pair in sides.items()}


def _is_matrix(tensor: TensorLocation) -> bool:
    return len(tensor.shape) == 2 and 0 not in tensor.shape


def _check_shapes(module: str, down: TensorLocation, up: TensorLocation, weight: TensorLocation) -> None:
    shape = (up.shape[0], down.shape[1])
    if shape != weight.shape or up.shape[1] != down.shape[0]:
        raise ExportError(f"the LoRA gives {module!r} a change of {shape}; the weight is {weight.shape}")


def _alpha(lora: str, name: str, tensor: TensorLocation) -> float:
    if math.prod(tensor.shape) != 1:
        raise ExportError(f"LoRA {lora} has {name!r} of shape {tensor.shape}; an alpha is one number")
    alpha = float(read_tensor(tensor).item())
    if not np.isfinite(alpha) or alpha == 0:
        raise ExportError(f"LoRA {lora} has {name!r} of {alpha}; an alpha is a finite number other than 0")
    return alpha


def _check_finite(lora: str, tensors: Mapping[str, TensorLocation]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(read_tensor(tensor).astype(np.float32)).all():
            raise ExportError(f"LoRA {lora} has a number in {name!r} that isn't finite (NaN or infinite): its training failed")
