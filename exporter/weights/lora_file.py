"""Reads a LoRA file: the two matrices of each module that it changes, and the factor of their product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...runtime.dtypes import BY_SAFETENSORS
from ...runtime.errors import ExportError
from ...runtime.files.reading import open_regular
from ...runtime.files.safetensors_header import TensorLocation, read_annotated_header
from ..json_files import read_json
from .lora_names import LoraNames, lora_names
from .lora_strength import Statement, metadata_statements, module_factors, peft_statement, unread_mentions
from .tensor_file import WEIGHT_DTYPES

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
PEFT_FILE = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PEFT_PREFIX = "base_model.model."
NUMBERS = {"F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2"}
"""Types in which tools store alphas besides those of weights, as numpy names them."""

Pair = tuple[TensorLocation, TensorLocation]
"""Down (r, in) and up (out, r)."""


@dataclass(frozen=True, kw_only=True)
class LoraFile:
    """A LoRA for a certain transformer.

    pairs, factors: by module.
    """

    pairs: dict[str, Pair]
    factors: dict[str, float]


def _scale_hint(name: str) -> str:
    return "; a scale is a number behind a colon, such as style.safetensors:0.8" if ":" in name else ""


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
        raise ExportError(f"LoRA {str(files[0])!r} does not exist{wanted}{_scale_hint(files[0].name)}")
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
    statements = metadata_statements(lora, metadata)
    is_stated = bool(alphas) or any(statement.says_alpha for statement in statements)
    statements += _config_beside(lora, file, tensors, is_stated)
    if not is_stated and not any(statement.says_alpha for statement in statements) and (keys := unread_mentions(metadata)):
        raise ExportError(f"LoRA {lora} may say its strength in its metadata {', '.join(keys[:3])}, a form that isn't known here")
    has_kohyas_names = any("lora_down" in name for name in tensors)
    return LoraFile(pairs=pairs, factors=module_factors(lora, ranks, alphas, statements, has_kohyas_names))


def lora_values(tensor: TensorLocation) -> np.ndarray:
    """A tensor of a LoRA, read into memory: a file that is cut short while it is mapped would end the process.

    Raises ExportError where the file doesn't hold the tensor any more.
    """
    dtype = np.dtype(NUMBERS[tensor.dtype]) if tensor.dtype in NUMBERS else BY_SAFETENSORS[tensor.dtype].numpy
    try:
        with open_regular(tensor.path) as file:
            file.seek(tensor.offset)
            content = file.read(tensor.nbytes)
    except OSError as error:
        raise ExportError(f"LoRA {str(tensor.path)!r} can't be read: {error.strerror or error}") from error
    if len(content) < tensor.nbytes:
        raise ExportError(f"LoRA {str(tensor.path)!r} was cut short while it was read: try again when it is written completely")
    return np.frombuffer(content, dtype).reshape(tensor.shape)


def _read_tensors(lora: str, file: Path) -> tuple[dict[str, TensorLocation], dict[str, str]]:
    try:
        tensors, metadata = read_annotated_header(file)
    except ValueError as error:
        raise ExportError(f"LoRA {lora} can't be read: {error}") from error
    unknown = sorted({tensor.dtype for name, tensor in tensors.items() if not _is_alpha(name, tensor)} - {*WEIGHT_DTYPES})
    if unknown:
        raise ExportError(f"LoRA {lora} holds {', '.join(unknown)}; allowed are {', '.join(WEIGHT_DTYPES)}")
    return tensors, metadata


def _is_alpha(name: str, tensor: TensorLocation) -> bool:
    """Whether a tensor is an alpha, which tools also store as an integer."""
    return name.endswith("alpha") and tensor.dtype in (*WEIGHT_DTYPES, *NUMBERS)


def _config_beside(lora: str, file: Path, tensors: Iterable[str], is_stated: bool) -> list[Statement]:
    """The statement of PEFT's adapter_config.json, which belongs to a file of PEFT's name or names.

    is_stated: whether the file says its strength itself.
    """
    config = file.with_name(PEFT_CONFIG)
    if file.name != PEFT_FILE and not any(PEFT_PREFIX in name for name in tensors):
        if config.is_file() and not is_stated:
            raise ExportError(
                f"LoRA {lora} doesn't say its strength, and {PEFT_CONFIG} lies beside it: name it {PEFT_FILE} if that is its "
                "own, or move it away"
            )
        return []
    if not config.is_file() and is_stated:
        return []
    if not config.is_file():
        raise ExportError(f"LoRA {lora} lacks {PEFT_CONFIG} beside it, which says its strength: copy that too")
    return [peft_statement(lora, PEFT_CONFIG, read_json(config))]


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
    if up.shape[1] != down.shape[0]:
        ranks = f"{down.shape[0]} and {up.shape[1]}"
        raise ExportError(f"the LoRA's two matrices for {module!r} have different ranks, {ranks}: it is damaged")
    if shape != weight.shape:
        raise ExportError(
            f"the LoRA gives {module!r} a change of {shape}; the weight is {weight.shape}: is it for another model?"
        )


def _alpha(lora: str, name: str, tensor: TensorLocation) -> float:
    if math.prod(tensor.shape) != 1:
        raise ExportError(f"LoRA {lora} has {name!r} of shape {tensor.shape}; an alpha is one number")
    alpha = float(lora_values(tensor).item())
    if not np.isfinite(alpha) or alpha == 0:
        raise ExportError(f"LoRA {lora} has {name!r} of {alpha}; an alpha is a finite number other than 0")
    return alpha


def _check_finite(lora: str, tensors: Mapping[str, TensorLocation]) -> None:
    for name, tensor in tensors.items():
        if not np.isfinite(lora_values(tensor).astype(np.float32)).all():
            raise ExportError(f"LoRA {lora} has a number in {name!r} that isn't finite (NaN or infinite): its training failed")
