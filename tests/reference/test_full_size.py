"""Every parameter of the full model, by name and shape, on the meta device: tests/data/full_size_params.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from omnigen2_rt.reference.mllm import MLLM, MLLMConfig
from omnigen2_rt.reference.transformer import Transformer, TransformerConfig
from omnigen2_rt.reference.vae import VAE, VAEConfig
from omnigen2_rt.reference.vision import VisionConfig
from omnigen2_rt.reference.weights import mllm_parameter_name

FACTS: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "full_size_params.json").read_text(encoding="utf-8")
)


def shapes_in_file(part: str) -> dict[str, tuple[int, ...]]:
    """The shapes of FACTS by tensor name; "layers.{0..31}.norm2.weight" stands for 32 tensors."""
    shapes = {}
    for pattern, shape in FACTS[part]["tensors"].items():
        span = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else [0]
        for number in numbers:
            shapes[pattern.replace(span[0], str(number)) if span else pattern] = tuple(shape)
    return shapes


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_transformer_has_the_published_parameters() -> None:
    with torch.device("meta"):
        network = Transformer(TransformerConfig.from_json(FACTS["transformer"]["config"]))
    assert shapes_of(network) == shapes_in_file("transformer")
    assert parameters_of(network) == 3_967_161_400


def test_vae_has_the_published_parameters() -> None:
    with torch.device("meta"):
        network = VAE(VAEConfig.from_json(FACTS["vae"]["config"]))
    assert shapes_of(network) == shapes_in_file("vae")
    assert parameters_of(network) == 83_819_683


def test_mllm_has_the_published_parameters() -> None:
    config = MLLMConfig.from_json(FACTS["mllm"]["config"])
    with torch.device("meta"):
        network = MLLM(config, VisionConfig.from_json(FACTS["mllm"]["config"]))
    in_file = {mllm_parameter_name(name, config): shape for name, shape in shapes_in_file("mllm").items()}
    assert shapes_of(network) == in_file
    assert parameters_of(network) == 3_754_622_976


def test_config_defaults_are_the_full_model() -> None:
    assert TransformerConfig() == TransformerConfig.from_json(FACTS["transformer"]["config"])
    assert VAEConfig() == VAEConfig.from_json(FACTS["vae"]["config"])
    assert MLLMConfig() == MLLMConfig.from_json(FACTS["mllm"]["config"])
    assert VisionConfig() == VisionConfig.from_json(FACTS["mllm"]["config"])
