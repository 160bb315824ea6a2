"""OmniGen2's diffusion transformer: from noisy latents, prompt embeddings and reference latents to a velocity.

Follows the paper (arXiv 2506.18871, section 3) and reproduces the numbers of VectorSpaceLab/OmniGen2 (commit 0f72fa9), with that
model's parameter names. Its methods are the pieces that run at different rates: the context refiner once a prompt, the image
refiners once a step, the joint layers once a step and guidance branch. Departures, all exact: sequences have their own lengths
instead of padding, and the last layer computes only the image's tokens.

Knows nothing of ONNX, files or devices; the rotation of heads is a callable argument.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rope import Rope, omni_rope, position_ids, rope_tables
from .transformer_blocks import ModulatedBlock, PlainBlock
from .transformer_config import TransformerConfig

__all__ = ["Transformer", "TransformerConfig", "initialize", "omni_rope", "position_ids", "rope_tables"]

TIMESTEP_SINUSOIDS = 256
NORM_OUT_EPS = 1e-6


def timestep_sinusoid(timesteps: Tensor, scale: float, width: int = TIMESTEP_SINUSOIDS) -> Tensor:
    """Cosines, then sines, of `timesteps` (n,) in [0, 1] times `scale`. Returns (n, width) float32."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(10000) * steps / half)
    angles = scale * (timesteps.float().unsqueeze(-1) * frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def patchify(latents: Tensor, patch: int) -> Tensor:
    """(B, C, h, w) -> (B, h/p * w/p, p*p*C): a token is its patch in the order row, column, channel."""
    batch, channels, height, width = latents.shape
    grid = latents.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(tokens: Tensor, patch: int, height: int) -> Tensor:
    """(B, L, p*p*C) -> (B, C, h, w), the inverse of `patchify`; the width follows from the height."""
    batch, _, values = tokens.shape
    grid = tokens.reshape(batch, height // patch, -1, patch, patch, values // patch**2)
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def join(context: Tensor, references: Tensor | None, image_tokens: Tensor) -> Tensor:
    """The joint sequence (B, S, D): text, references, image. A context of batch 1 is repeated for every image."""
    batch = image_tokens.shape[0]
    before = [part.expand(batch, -1, -1) for part in (context, references) if part is not None]
    return torch.cat((*before, image_tokens), dim=1)


class TimestepEmbedder(nn.Module):
    """The sinusoid (n, 256) -> temb (n, Dc)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIMESTEP_SINUSOIDS, config.conditioning_width)
        self.linear_2 = nn.Linear(config.conditioning_width, config.conditioning_width)

    def forward(self, sinusoid: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(sinusoid.to(self.linear_1.weight.dtype))))
        return out


class ConditionEmbedder(nn.Module):
    """Holds two embedders under the checkpoint's names."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.timestep_embedder = TimestepEmbedder(config)
        self.caption_embedder = nn.Sequential(
            nn.RMSNorm(config.text_feat_dim, eps=config.norm_eps), nn.Linear(config.text_feat_dim, config.hidden_size)
        )


class VelocityHead(nn.Module):
    """The last norm, scaled by the timestep, and the projection to patches."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.conditioning_width, config.hidden_size)
        self.linear_2 = nn.Linear(config.hidden_size, config.patch_size**2 * config.velocity_channels)

    def forward(self, hidden: Tensor, temb: Tensor) -> Tensor:
        scale = self.linear_1(F.silu(temb)).unsqueeze(1)
        normed = F.layer_norm(hidden, hidden.shape[-1:], eps=NORM_OUT_EPS)
        out: Tensor = self.linear_2(normed * (1 + scale))
        return out


class Transformer(nn.Module):
    """The whole network. A batch is B images that share a prompt layout; temb is (B, Dc), or (1, Dc) for all of them.

    All tensors but the float32 rope tables have the weights' dtype.
    """

    def __init__(self, config: TransformerConfig, rope: Rope = omni_rope) -> None:
        super().__init__()
        self.config = config
        patch_values = config.patch_size**2 * config.in_channels
        self.image_index_embedding = nn.Parameter(0.02 * torch.randn(config.max_references, config.hidden_size))
        self.x_embedder = nn.Linear(patch_values, config.hidden_size)
        self.ref_image_patch_embedder = nn.Linear(patch_values, config.hidden_size)
        self.time_caption_embed = ConditionEmbedder(config)
        refiners = range(config.num_refiner_layers)
        self.noise_refiner = nn.ModuleList(ModulatedBlock(config, rope) for _ in refiners)
        self.ref_image_refiner = nn.ModuleList(ModulatedBlock(config, rope) for _ in refiners)
        self.context_refiner = nn.ModuleList(PlainBlock(config, rope) for _ in refiners)
        self.layers = nn.ModuleList(ModulatedBlock(config, rope) for _ in range(config.num_layers))
        self.norm_out = VelocityHead(config)

    def embed_timesteps(self, timesteps: Tensor) -> Tensor:
        """timesteps: (n,) float32 in [0, 1], 0 noise and 1 data -> temb (n, Dc)."""
        sinusoid = timestep_sinusoid(timesteps, self.config.timestep_scale)
        temb: Tensor = self.time_caption_embed.timestep_embedder(sinusoid)
        return temb

    def refine_context(self, prompt_embeds: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        """prompt_embeds: (B, T, Dt); cos, sin: (T, Dh/2) -> context (B, T, D). Doesn't depend on the timestep."""
        context: Tensor = self.time_caption_embed.caption_embedder(prompt_embeds)
        for block in self.context_refiner:
            context = block(context, cos, sin, mask)
        return context

    def embed_latents(self, latents: Tensor, temb: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """latents: (B, C, h, w); cos, sin: (L, Dh/2) -> image tokens (B, L, D), the same for every text length."""
        tokens: Tensor = self.x_embedder(patchify(latents, self.config.patch_size))
        for block in self.noise_refiner:
            tokens = block(tokens, cos, sin, temb)
        return tokens

    def embed_reference(self, latents: Tensor, index: Tensor | int, temb: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """latents: (B, C, h, w) of the reference number `index`, an int or (1,) int64 -> its tokens (B, R, D)."""
        if isinstance(index, int):
            index = torch.tensor([index], device=latents.device)
        index_embedding = self.image_index_embedding.index_select(0, index).unsqueeze(1)
        tokens: Tensor = self.ref_image_patch_embedder(patchify(latents, self.config.patch_size)) + index_embedding
        for block in self.ref_image_refiner:
            tokens = block(tokens, cos, sin, temb)
        return tokens

    def joint(
        self,
        context: Tensor,
        references: Tensor | None,
        image_tokens: Tensor,
        temb: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The main layers over text, references and image; returns the image's hidden states (B, L, D).

        context: (B or 1, T, D).
        references: (B or 1, R, D), all references in order.
        image_tokens: (B, L, D).
        cos, sin: (S, Dh/2) of the joint sequence.
        mask: (B, S) bool, false for padding.
        The queries of the last layer are the image's tokens only, because nothing reads the others.
        """
        hidden = join(context, references, image_tokens)
        first_query = context.shape[1] + (0 if references is None else references.shape[1])
        *layers, last = self.layers
        for layer in layers:
            hidden = layer(hidden, cos, sin, temb, mask)
        image: Tensor = last(hidden, cos, sin, temb, mask, first_query)
        return image

    def cache_signal(
        self, context: Tensor, references: Tensor | None, image_tokens: Tensor, temb: Tensor, previous: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The signal of TeaCache, which is the first layer's attention input (B, S, D), and its relative L1 change, float32.

        previous: (B, S, D), the signal of the previous step. Zeros make the change infinite or NaN.
        """
        first = cast(ModulatedBlock, self.layers[0])
        signal, *_ = first.norm1(join(context, references, image_tokens), temb)
        before = previous.float()
        change = (signal.float() - before).abs().mean() / before.abs().mean()
        return signal, change

    def velocity(self, hidden: Tensor, temb: Tensor, latents: Tensor) -> Tensor:
        """hidden: (B, L, D) -> velocity (B, C, h, w), towards the data. `latents` gives only the shape."""
        return unpatchify(self.norm_out(hidden, temb), self.config.patch_size, latents.shape[2])

    def rope_tables(
        self, text_tokens: int, references: Sequence[Tensor], latents: Tensor, padded_text_tokens: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """cos, sin: (S, Dh/2) float32 of the joint sequence of a text, reference latents and latents (B, C, h, w)."""
        patch = self.config.patch_size
        *grids, grid = [(x.shape[-2] // patch, x.shape[-1] // patch) for x in (*references, latents)]
        positions = position_ids(text_tokens, grids, grid, padded_text_tokens)
        return rope_tables(positions.to(latents.device), self.config.axes_dim_rope, self.config.rope_theta)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        prompt_embeds: Tensor,
        references: Sequence[Tensor] = (),
        *,
        tables: tuple[Tensor, Tensor] | None = None,
        text_mask: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, C, h, w) of one guidance branch of one step.

        latents: (B, C, h, w).
        timesteps: (1,) or (B,).
        prompt_embeds: (B or 1, T, Dt).
        references: latents (B or 1, C, h_i, w_i), in order.
        tables: cos and sin of the joint sequence, (S, Dh/2), or (B, S, Dh/2) where the prompts' lengths differ.
        text_mask: (B, T) bool, false for padding.
        """
        cos, sin = tables or self.rope_tables(prompt_embeds.shape[1], references, latents)
        temb = self.embed_timesteps(timesteps)
        lengths = [x.shape[-2] * x.shape[-1] // self.config.patch_size**2 for x in (*references, latents)]
        lengths.insert(0, prompt_embeds.shape[1])
        text, *images, image = zip(torch.split(cos, lengths, dim=-2), torch.split(sin, lengths, dim=-2), strict=True)
        context = self.refine_context(prompt_embeds, *text, text_mask)
        tokens = [
            self.embed_reference(reference, index, temb, *table)
            for index, (reference, table) in enumerate(zip(references, images, strict=True))
        ]
        image_tokens = self.embed_latents(latents, temb, *image)
        mask = None if text_mask is None else F.pad(text_mask, (0, sum(lengths[1:])), value=True)
        hidden = self.joint(context, torch.cat(tokens, 1) if tokens else None, image_tokens, temb, cos, sin, mask)
        return self.velocity(hidden, temb, latents)


def initialize(transformer: Transformer) -> None:
    """Initialize the weights for training from scratch, with torch's global generator.

    Projections are Xavier and biases zero. Modulation and output are zero too, so every block starts as the identity.
    """
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            starts_at_zero = name.endswith("norm1.linear") or name.startswith("norm_out.")
            (nn.init.zeros_ if starts_at_zero else nn.init.xavier_uniform_)(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
