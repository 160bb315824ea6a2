"""Loads the networks from a checkpoint in the official layout, strictly: no missing and no unused tensors.

Knows that layout (`transformer/`, `vae/`, `mllm/`, each with config.json and safetensors) and both naming schemes that
transformers has used for the MLLM's tensors. Knows nothing of exported bundles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..runtime.files.json_text import read_object
from ..runtime.files.safetensors_header import TensorLocation, tensor_locations
from .mllm import MLLM, MLLMConfig
from .rope import Rope, omni_rope
from .transformer import Transformer, TransformerConfig
from .vae import VAE, VAEConfig
from .vision import VisionConfig

__all__ = [
    "TensorLocation", "check_tied_head", "load_mllm", "load_transformer", "load_vae", "mllm_parameter_name", "read_config",
    "stored_mllm_name", "tensor_locations",
]  # fmt: skip

EMBEDDINGS = ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight")
"""The names of the token embedding, as transformers 4.51 and newer versions wrote it."""
ROWS = 4096

Network = TypeVar("Network", bound=nn.Module)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The folder's config.json. Raises ValueError, naming the file, where it is missing or no JSON object."""
    path = Path(folder) / "config.json"
    try:
        return read_object(path)
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def load_transformer(
    checkpoint_dir: str | Path, dtype: torch.dtype = torch.float32, rope: Rope = omni_rope
) -> Transformer:
    """The diffusion transformer, in evaluation mode. Raises ValueError where file and network differ."""
    folder = Path(checkpoint_dir) / "transformer"
    config = TransformerConfig.from_json(read_config(folder))
    return _load(folder, lambda: Transformer(config, rope), dtype, lambda name: name)


def load_vae(checkpoint_dir: str | Path, dtype: torch.dtype = torch.float32) -> VAE:
    """The autoencoder, in evaluation mode. Raises ValueError where file and network differ."""
    folder = Path(checkpoint_dir) / "vae"
    config = VAEConfig.from_json(read_config(folder))
    return _load(folder, lambda: VAE(config), dtype, lambda name: name)


def load_mllm(checkpoint_dir: str | Path, dtype: torch.dtype = torch.float32) -> MLLM:
    """The language model and its vision encoder, in evaluation mode. Raises ValueError where file and network differ."""
    folder = Path(checkpoint_dir) / "mllm"
    config = MLLMConfig.from_json(read_config(folder))
    vision = VisionConfig.from_json(read_config(folder))
    check_tied_head(folder, config, tensor_locations(folder))
    return _load(folder, lambda: MLLM(config, vision), dtype, lambda name: mllm_parameter_name(name, config))


def mllm_parameter_name(name: str, config: MLLMConfig) -> str | None:
    """Our name for a tensor of the MLLM's file, as transformers 4.51 or a newer version wrote it.

    None for an output head that is tied to the embedding: the file may hold a copy of it (see `check_tied_head`).
    """
    if name == "lm_head.weight":
        return None if config.tie_word_embeddings else "language_model.head.weight"
    renamed = {"model.language_model.": "language_model.", "model.visual.": "visual.", "model.": "language_model."}
    for prefix, ours in renamed.items():
        if name.startswith(prefix):
            return ours + name.removeprefix(prefix)
    return name


def check_tied_head(folder: Path, config: MLLMConfig, locations: Mapping[str, TensorLocation]) -> None:
    """Raises ValueError where the config ties the output head to the embedding and the file holds another head.

    transformers 4.51 overwrites such a head with the embedding, and version 5 keeps it: only the checkpoint's author knows.
    """
    head = locations.get("lm_head.weight")
    if head is None or not config.tie_word_embeddings:
        return
    name = next((name for name in EMBEDDINGS if name in locations), "")
    if not name or not _equal(head, "lm_head.weight", locations[name], name):
        raise ValueError(
            f"{folder} holds an lm_head.weight that differs from the embedding, and its config.json ties the two: "
            "remove lm_head.weight from the file, or set tie_word_embeddings to false to keep it"
        )


def _equal(head: TensorLocation, head_name: str, embedding: TensorLocation, embedding_name: str) -> bool:
    """Whether two stored matrices have the same values, compared by rows: they are large."""
    if head.shape != embedding.shape or len(head.shape) != 2:
        return False
    with safe_open(head.path, framework="pt") as one, safe_open(embedding.path, framework="pt") as other:
        rows, others = one.get_slice(head_name), other.get_slice(embedding_name)
        starts = range(0, head.shape[0], ROWS)
        return all(torch.equal(rows[k : k + ROWS].float(), others[k : k + ROWS].float()) for k in starts)


def stored_mllm_name(name: str) -> str:
    """The name under which the MLLM's file holds our parameter `name`, as transformers 4.51 wrote it."""
    if name == "language_model.head.weight":
        return "lm_head.weight"
    return f"model.{name.removeprefix('language_model.')}" if name.startswith("language_model.") else name


def _load(
    folder: Path, build: Callable[[], Network], dtype: torch.dtype, rename: Callable[[str], str | None]
) -> Network:
    with torch.device("meta"):
        network = build()
    stored = {ours: (name, location) for name, location in tensor_locations(folder).items() if (ours := rename(name))}
    _check(folder, network, {ours: location.shape for ours, (_, location) in stored.items()})
    tensors = {ours: _read(name, location).to(dtype) for ours, (name, location) in stored.items()}
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def _check(folder: Path, network: nn.Module, actual: Mapping[str, tuple[int, ...]]) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    shared = sorted(expected.keys() & actual.keys())
    problems = {
        "missing": sorted(expected.keys() - actual.keys()),
        "unused": sorted(actual.keys() - expected.keys()),
        "wrong shape": [f"{name} {actual[name]} for {expected[name]}" for name in shared if actual[name] != expected[name]],
    }
    if any(problems.values()):
        details = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"{folder} does not fit its config.json: {details}")


def _read(name: str, location: TensorLocation) -> Tensor:
    with safe_open(location.path, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor
