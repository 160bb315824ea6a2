"""The exported components. A new one is a `Component` in a file here and an entry in COMPONENTS."""

from __future__ import annotations

from .autoencoder import vae_decoder, vae_encoder
from .component import Component, Tensor
from .diffusion_transformer import (
    blend,
    cache_signal,
    context_refiner,
    latent_embedder,
    reference_embedder,
    timestep_embedding,
    transformer,
    velocity_head,
)
from .language_model import language_model, lm_head, token_embedding
from .vision_encoder import vision_encoder

COMPONENTS: tuple[Component, ...] = (
    token_embedding,
    language_model,
    lm_head,
    vision_encoder,
    timestep_embedding,
    context_refiner,
    reference_embedder,
    latent_embedder,
    transformer,
    cache_signal,
    blend,
    velocity_head,
    vae_encoder,
    vae_decoder,
)

__all__ = ["COMPONENTS", "Component", "Tensor"]
