"""Nano's checkpoint directory in the official layout: configs written by hand, bf16 weights written by the training."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from ...reference.mllm import MLLM, MLLMConfig
from ...reference.transformer import Transformer, TransformerConfig
from ...reference.vae import VAE, VAEConfig
from ...reference.vision import VisionConfig
from ...reference.weights import load_mllm, load_transformer, load_vae, read_config, stored_mllm_name
from ...runtime.files.writing import write_whole

CHECKPOINT = Path(__file__).parent.parent / "checkpoint"
LOADERS: dict[str, Callable[[Path], Any]] = {"transformer": load_transformer, "vae": load_vae, "mllm": load_mllm}
FILE_STEMS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "mllm": "model"}


def build(part: str, checkpoint: Path = CHECKPOINT) -> Any:
    """A new network of a part, built from its config."""
    config = read_config(checkpoint / part)
    if part == "transformer":
        return Transformer(TransformerConfig.from_json(config))
    if part == "vae":
        return VAE(VAEConfig.from_json(config))
    return MLLM(MLLMConfig.from_json(config), VisionConfig.from_json(config))


def load_or_build(part: str, initialize: Callable[[Any], None], checkpoint: Path = CHECKPOINT) -> Any:
    """The part with the checkpoint's weights, or a new initialized one where the checkpoint has none."""
    if (checkpoint / part / f"{FILE_STEMS[part]}.safetensors").exists():
        return LOADERS[part](checkpoint).train()
    network = build(part, checkpoint)
    initialize(network)
    return network


def save(part: str, network: nn.Module, checkpoint: Path = CHECKPOINT) -> None:
    """Write the part's weights, atomically."""
    rename = stored_mllm_name if part == "mllm" else str
    tensors = {rename(name): value.to("cpu", torch.bfloat16).contiguous() for name, value in network.state_dict().items()}
    path = checkpoint / part / f"{FILE_STEMS[part]}.safetensors"
    write_whole(path, safetensors.torch.save(tensors, metadata={"format": "pt"}))


def update_config(part: str, changes: dict[str, Any], checkpoint: Path = CHECKPOINT) -> None:
    """Update numbers of the part's config.json."""
    path = checkpoint / part / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    write_whole(path, json.dumps(config, indent=2) + "\n")


def write_graphs(checkpoint: Path = CHECKPOINT) -> None:
    """Export the checkpoint and replace its graphs and manifest, so that it is its own bundle."""
    from ...exporter.export import export_bundle

    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        bundle = Path(folder) / "nano"
        export_bundle(checkpoint, bundle)
        for path in checkpoint.glob("*.onnx"):
            path.unlink()
        for path in (*bundle.glob("*.onnx"), bundle / "bundle.json", bundle / "processor" / "tokenizer.json"):
            os.replace(path, checkpoint / path.relative_to(bundle))


def initialize_mllm(network: nn.Module) -> None:
    """Normal initialization like Qwen's, with small embeddings because the head is tied to them."""
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            width = parameter[0].numel()
            nn.init.normal_(parameter, std=0.05 if "embed_tokens" in name else width**-0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
