"""The diffusion transformer's components: its embedders and refiners, the joint layers, the velocity head, and two for caches."""

from __future__ import annotations

import numpy as np
import torch

from ...reference.transformer import Transformer, TransformerConfig
from .component import Component, Tensor, Tensors, cosines, unit_interval

ROPE = {"cos": cosines, "sin": cosines}
BLENDED_STATES = 5  # of a Taylor series of order 4


def _width(config: TransformerConfig) -> int:
    return min(config.hidden_size, 1024)


def _rope(config: TransformerConfig, tokens: str) -> Tensors:
    half = config.hidden_size // config.num_attention_heads // 2
    table = Tensor(shape=(tokens, half), dtype="float32")
    return {"cos": table, "sin": table}


def _temb(config: TransformerConfig) -> Tensors:
    return {"temb": Tensor(shape=(1, _width(config)))}


def _latents(config: TransformerConfig, batch: str | int = "batch") -> Tensor:
    return Tensor(shape=(batch, config.in_channels, "latent_height", "latent_width"), dtype="float32")


def _tokens(config: TransformerConfig, tokens: str, batch: str | int = "batch") -> Tensor:
    return Tensor(shape=(batch, tokens, config.hidden_size))


def _joint(config: TransformerConfig) -> Tensors:
    return {
        "context": _tokens(config, "text_tokens", 1),
        "references": _tokens(config, "reference_tokens", 1),
        "image_tokens": _tokens(config, "image_tokens"),
    }


def _dtype(network: Transformer) -> torch.dtype:
    return network.x_embedder.weight.dtype


def _embed_timesteps(network: Transformer, timesteps: torch.Tensor) -> torch.Tensor:
    return network.embed_timesteps(timesteps)


def _refine_context(network: Transformer, prompt_embeds: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    return network.refine_context(prompt_embeds.to(_dtype(network)), cos, sin)


def _embed_reference(
    network: Transformer,
    earlier_references: torch.Tensor,
    latents: torch.Tensor,
    index: torch.Tensor,
    temb: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
) -> torch.Tensor:
    tokens = network.embed_reference(latents.to(_dtype(network)), index, temb, cos, sin)
    return torch.cat([earlier_references, tokens], dim=1)


def _embed_latents(
    network: Transformer, latents: torch.Tensor, temb: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    return network.embed_latents(latents.to(_dtype(network)), temb, cos, sin)


def _velocity(network: Transformer, hidden_states: torch.Tensor, temb: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    return network.velocity(hidden_states, temb, latents).float()


def _blend(network: Transformer, *inputs: torch.Tensor) -> torch.Tensor:
    *states, weights = inputs
    total = sum(state.float() * weights[k] for k, state in enumerate(states))
    assert isinstance(total, torch.Tensor)
    return total.to(states[0].dtype)


# Both components with `keeps_float32` take no measurable time. In bf16 they alone made the latents' error 10 times as large:
# 0.033 instead of 0.003 after 4 steps at 256 px on OpenVINO, with the random weights of benchmarks/configuration.
timestep_embedding = Component(
    name="timestep_embedding",
    part="transformer",
    forward=_embed_timesteps,
    inputs=lambda c: {"timesteps": Tensor(shape=("steps",), dtype="float32")},
    outputs=lambda c: {"temb": Tensor(shape=("steps", _width(c)))},
    sizes={"steps": 5},
    draw={"timesteps": unit_interval},
    keeps_float32=True,
)

context_refiner = Component(
    name="context_refiner",
    part="transformer",
    forward=_refine_context,
    inputs=lambda c: {
        "prompt_embeds": Tensor(shape=(1, "text_tokens", c.text_feat_dim), dtype="float32"),
        **_rope(c, "text_tokens"),
    },
    outputs=lambda c: {"context": _tokens(c, "text_tokens", 1)},
    sizes={"text_tokens": 11},
    draw=ROPE,
)

reference_embedder = Component(
    name="reference_embedder",
    part="transformer",
    forward=_embed_reference,
    inputs=lambda c: {
        "earlier_references": _tokens(c, "earlier_tokens", 1),
        "latents": _latents(c, 1),
        "index": Tensor(shape=(1,), dtype="int64"),
        **_temb(c),
        **_rope(c, "image_tokens"),
    },
    outputs=lambda c: {"references": _tokens(c, "reference_tokens", 1)},
    sizes={
        "earlier_tokens": 3,
        "reference_tokens": 27,
        "latent_height": 8,
        "latent_width": 12,
        "image_tokens": 24,
    },
    draw={**ROPE, "index": lambda rng, shape: np.full(shape, 1, np.int64)},
    picture_rows=True,
)

latent_embedder = Component(
    name="latent_embedder",
    part="transformer",
    forward=_embed_latents,
    inputs=lambda c: {"latents": _latents(c), **_temb(c), **_rope(c, "image_tokens")},
    outputs=lambda c: {"image_tokens": _tokens(c, "image_tokens")},
    sizes={"batch": 2, "latent_height": 8, "latent_width": 12, "image_tokens": 24},
    draw=ROPE,
    picture_rows=True,
)

transformer = Component(
    name="transformer",
    part="transformer",
    forward=lambda network, *inputs: network.joint(*inputs),
    inputs=lambda c: {**_joint(c), **_temb(c), **_rope(c, "joint_tokens")},
    outputs=lambda c: {"hidden_states": _tokens(c, "image_tokens")},
    sizes={"batch": 2, "text_tokens": 7, "reference_tokens": 10, "image_tokens": 24, "joint_tokens": 41},
    draw=ROPE,
    picture_rows=True,
    repeats_shapes=True,
)

cache_signal = Component(
    name="cache_signal",
    part="transformer",
    forward=lambda network, *inputs: network.cache_signal(*inputs),
    inputs=lambda c: {**_joint(c), **_temb(c), "previous": _tokens(c, "joint_tokens")},
    outputs=lambda c: {
        "signal": _tokens(c, "joint_tokens"),
        "change": Tensor(shape=(), dtype="float32"),
    },
    sizes={"batch": 2, "text_tokens": 7, "reference_tokens": 10, "image_tokens": 24, "joint_tokens": 41},
)

blend = Component(
    name="blend",
    part="transformer",
    forward=_blend,
    inputs=lambda c: {
        **{f"state_{k}": _tokens(c, "image_tokens") for k in range(BLENDED_STATES)},
        "weights": Tensor(shape=(BLENDED_STATES,), dtype="float32"),
    },
    outputs=lambda c: {"hidden_states": _tokens(c, "image_tokens")},
    sizes={"batch": 2, "image_tokens": 24},
)

velocity_head = Component(
    name="velocity_head",
    part="transformer",
    forward=_velocity,
    inputs=lambda c: {"hidden_states": _tokens(c, "image_tokens"), **_temb(c), "latents": _latents(c)},
    outputs=lambda c: {"velocity": _latents(c)},
    sizes={"batch": 2, "latent_height": 8, "latent_width": 12, "image_tokens": 24},
    keeps_float32=True,
)
