"""Nano's checkpoint directory, in the official layout: its configs are written by hand, the weights by the training, in bf16."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ...reference.mllm import MLLM, MLLMConfig
from ...reference.transformer import Transformer, TransformerConfig
from ...reference.vae import VAE, VAEConfig
from ...reference.vision import VisionConfig
from ...reference.weights import load_mllm, load_transformer, load_vae, read_config, stored_mllm_name
from .loop import written_whole

CHECKPOINT = Path(__file__).parent.parent / "checkpoint"
LOADERS: dict[str, Callable[[Path], Any]] = {"transformer": load_transformer, "vae": load_vae, "mllm": load_mllm}
STEMS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "mllm": "model"}


def build(part: str, checkpoint: Path = CHECKPOINT) -> Any:
    """A fresh network of a part, as its config says."""
    config = read_config(checkpoint / part)
    if part == "transformer":
        return Transformer(TransformerConfig.from_json(config))
    if part == "vae":
        return VAE(VAEConfig.from_json(config))
    return MLLM(MLLMConfig.from_json(config), VisionConfig.from_json(config))


def started(part: str, initialize: Callable[[Any], None], checkpoint: Path = CHECKPOINT) -> Any:
    """The part as the checkpoint has it, for a sitting that finds no state file; a fresh one where it has no weights."""
    if (checkpoint / part / f"{STEMS[part]}.safetensors").exists():
        return LOADERS[part](checkpoint).train()
    network = build(part, checkpoint)
    initialize(network)
    return network


def save(part: str, network: nn.Module, checkpoint: Path = CHECKPOINT) -> None:
    """Write the part's weights, whole or not at all."""
    rename = stored_mllm_name if part == "mllm" else str
    tensors = {rename(name): value.to(torch.bfloat16).contiguous() for name, value in network.state_dict().items()}
    target = checkpoint / part / f"{STEMS[part]}.safetensors"
    with written_whole(target) as partial:
        save_file(tensors, partial, metadata={"format": "pt"})
        partial.chmod(0o644)


def update_config(part: str, changes: dict[str, Any], checkpoint: Path = CHECKPOINT) -> None:
    """Put measured numbers into the part's config.json."""
    path = checkpoint / part / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def write_graphs(checkpoint: Path = CHECKPOINT) -> None:
    """Export the checkpoint and put the graphs and the manifest into it, so that it is its own bundle."""
    from ...exporter.export import export_bundle

    with tempfile.TemporaryDirectory(dir=checkpoint.parent) as folder:
        bundle = Path(folder) / "nano"
        export_bundle(checkpoint, bundle)
        for old in checkpoint.glob("*.onnx"):
            old.unlink()
        for new in (*bundle.glob("*.onnx"), bundle / "bundle.json", bundle / "processor" / "tokenizer.json"):
            os.replace(new, checkpoint / new.relative_to(bundle))


def initialize_mllm(network: nn.Module) -> None:
    """Normal weights as Qwen's, the embedding small enough for the tied head."""
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            width = parameter[0].numel()
            nn.init.normal_(parameter, std=0.05 if "embed_tokens" in name else width**-0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
