"""The networks' configs of a checkpoint, parsed and checked for what each says and for whether they belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..reference.mllm import MLLMConfig
from ..reference.transformer import TransformerConfig
from ..reference.vae import VAEConfig
from ..reference.vision import VisionConfig
from ..runtime.errors import ExportError

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Configs:
    """The configs of all networks.

    vae_overflows_in_fp16: the VAE's activations leave fp16's range.
    """

    transformer: TransformerConfig
    vae: VAEConfig
    vae_overflows_in_fp16: bool
    mllm: MLLMConfig
    vision: VisionConfig

    def layers(self, part: str) -> int:
        """The layers that a part of the checkpoint has at least, each of one tensor or more."""
        if part == "transformer":
            return self.transformer.num_layers + 3 * self.transformer.num_refiner_layers
        if part == "vae":
            return 2 * len(self.vae.block_out_channels) * self.vae.layers_per_block
        return self.mllm.num_hidden_layers + self.vision.depth


def parse_configs(path: Path, stored: Mapping[str, dict[str, Any]]) -> Configs:
    """Parse the config.json of each part of the checkpoint at `path`. Raises ExportError, naming file and field."""
    transformer = _parsed(path / "transformer", TransformerConfig.from_json, stored["transformer"])
    vae = _parsed(path / "vae", VAEConfig.from_json, stored["vae"])
    mllm = _parsed(path / "mllm", MLLMConfig.from_json, stored["mllm"])
    vision = _parsed(path / "mllm", VisionConfig.from_json, stored["mllm"])
    upcast = stored["vae"].get("force_upcast", True)
    if not isinstance(upcast, bool):
        raise ExportError(f"{path / 'vae' / 'config.json'}: force_upcast={upcast!r} must be true or false")
    for name in ("image_token_id", "vision_start_token_id", "vision_end_token_id"):
        if getattr(mllm, name) >= mllm.vocab_size:
            raise ExportError(
                f"{path / 'mllm' / 'config.json'}: {name}={getattr(mllm, name)} must be below vocab_size={mllm.vocab_size}"
            )
    _check_widths(path, transformer, vae, mllm, vision)
    return Configs(transformer=transformer, vae=vae, vae_overflows_in_fp16=upcast, mllm=mllm, vision=vision)


def _parsed(folder: Path, parse: Callable[[Mapping[str, Any]], Config], stored: Mapping[str, Any]) -> Config:
    try:
        return parse(stored)
    except ValueError as error:
        raise ExportError(f"{folder / 'config.json'}: {error}") from error


def _check_widths(path: Path, transformer: TransformerConfig, vae: VAEConfig, mllm: MLLMConfig, vision: VisionConfig) -> None:
    pairs = (
        ("the VAE's latent_channels", vae.latent_channels, "the transformer's in_channels", transformer.in_channels),
        ("the transformer's out_channels", transformer.velocity_channels, "its in_channels", transformer.in_channels),
        ("the MLLM's hidden_size", mllm.hidden_size, "the transformer's text_feat_dim", transformer.text_feat_dim),
        ("the vision encoder's out_hidden_size", vision.out_hidden_size, "the MLLM's hidden_size", mllm.hidden_size),
        ("the VAE's in_channels", vae.in_channels, "a picture's channels are", 3),
        ("the VAE's out_channels", vae.out_channels, "a picture's channels are", 3),
        ("the vision encoder's in_channels", vision.in_channels, "a picture's channels are", 3),
    )
    for one, width, other, expected in pairs:
        if width != expected:
            raise ExportError(f"{path}: {one} is {width}, {other} {expected}: its parts don't fit together")
