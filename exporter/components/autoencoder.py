"""The VAE's two components. They run in float32 where the checkpoint says that half precision overflows (`force_upcast`).

The reference widens bfloat16 to float32 in two places, exactly. Runtimes need both: not every one resizes or clips bfloat16.
"""

from __future__ import annotations

import torch

from ...reference.vae import VAE, VAEConfig
from .component import Component, Tensor


def _pixels(height: str, width: str) -> Tensor:
    return Tensor(shape=("batch", 3, height, width), dtype="float32")


def _latents(config: VAEConfig) -> Tensor:
    return Tensor(shape=("batch", config.latent_channels, "latent_height", "latent_width"), dtype="float32")


def _dtype(network: VAE) -> torch.dtype:
    return next(network.parameters()).dtype


def _encode(network: VAE, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, logvar = network.encode(pixels.to(_dtype(network)))
    return mean.float(), logvar


def _decode(network: VAE, latents: torch.Tensor) -> torch.Tensor:
    return network.decode(latents.to(_dtype(network))).float()


vae_encoder = Component(
    name="vae_encoder",
    part="vae",
    forward=_encode,
    inputs=lambda c: {"pixels": _pixels("height_px", "width_px")},
    outputs=lambda c: {"mean": _latents(c), "logvar": _latents(c)},
    sizes={"batch": 2, "height_px": 32, "width_px": 48, "latent_height": 4, "latent_width": 6},
)

vae_decoder = Component(
    name="vae_decoder",
    part="vae",
    forward=_decode,
    inputs=lambda c: {"latents": _latents(c)},
    outputs=lambda c: {"pixels": _pixels("height_px", "width_px")},
    sizes={"batch": 2, "height_px": 32, "width_px": 48, "latent_height": 4, "latent_width": 6},
)
