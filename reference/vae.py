"""The autoencoder between images and latents: FLUX.1's AutoencoderKL, with the parameter names of diffusers.

Reproduces the numbers of diffusers' AutoencoderKL (models/autoencoders/autoencoder_kl.py). Departures, both exact in value: in
bfloat16, `Upsample` repeats values in float32, and the log variance is clamped in float32. Latents are neither shifted nor
scaled here, and the caller samples from the moments. Knows nothing of ONNX, files or devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config_values import check_values

NORM_EPS = 1e-6
LOGVAR_RANGE = (-30.0, 20.0)


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """The values of `vae/config.json`; the defaults are the full model's. Raises ValueError for an invalid network.

    sample_size: the side, in pixels, of the images in training. The network takes any size.
    """

    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    latent_channels: int = 16
    norm_num_groups: int = 32
    scaling_factor: float = 0.3611
    shift_factor: float | None = 0.1159
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    mid_block_add_attention: bool = True
    sample_size: int = 1024

    def __post_init__(self) -> None:
        check_values(self, _RANGES)
        if not 1 <= len(self.block_out_channels) <= MOST_BLOCKS:
            raise ValueError(f"block_out_channels={self.block_out_channels} must be one to {MOST_BLOCKS} integers")
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ValueError(
                f"block_out_channels={self.block_out_channels} must be multiples of norm_num_groups="
                f"{self.norm_num_groups}"
            )

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> VAEConfig:
        """The config from the parsed file. Raises ValueError for unknown keys and for unsupported networks."""
        settings = {key: value for key, value in config.items() if not key.startswith("_")}
        for key, allowed in _FIXED.items():
            value = settings.pop(key, allowed)
            if value != allowed and not (isinstance(value, list) and value and all(item == allowed for item in value)):
                raise ValueError(f"vae config has {key}={value!r}; only {allowed!r} is supported")
        for key in _UNREAD:
            settings.pop(key, None)
        if unknown := sorted(settings.keys() - {field.name for field in fields(cls)}):
            raise ValueError(f"vae config has unknown keys {unknown}")
        return cls(**settings)

    @property
    def pixels_per_latent(self) -> int:
        """Pixels along a side of one latent."""
        return 1 << (len(self.block_out_channels) - 1)


MOST_BLOCKS = 8
_RANGES = {
    "in_channels": (1, 4096),
    "out_channels": (1, 4096),
    "layers_per_block": (1, 64),
    "latent_channels": (1, 4096),
    "scaling_factor": (1e-6, 1e6),
    "shift_factor": (-1e6, 1e6),
    "sample_size": (1, 2**16),
}
_FIXED = {
    "act_fn": "silu",
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
    "latents_mean": None,
    "latents_std": None,
}
_UNREAD = ("force_upcast",)  # about diffusers' own loading


class ResnetBlock(nn.Module):
    """Norm, SiLU and convolution, twice, plus a shortcut: a 1x1 convolution where the width changes."""

    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=NORM_EPS)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        if channels != out_channels:
            self.conv_shortcut = nn.Conv2d(channels, out_channels, 1)
        self.changes_width = channels != out_channels

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        out: Tensor = (self.conv_shortcut(x) if self.changes_width else x) + hidden
        return out


class PixelAttention(nn.Module):
    """Attention with a single head over all positions of the smallest feature map."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=NORM_EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        positions = self.group_norm(x).flatten(2).transpose(1, 2).unsqueeze(1)
        mixed = F.scaled_dot_product_attention(self.to_q(positions), self.to_k(positions), self.to_v(positions))
        out: Tensor = self.to_out[0](mixed.squeeze(1)).transpose(1, 2)
        return x + out.reshape(x.shape)


class MidBlock(nn.Module):
    """Two residual blocks, with attention between them where the config asks for it."""

    def __init__(self, channels: int, config: VAEConfig) -> None:
        super().__init__()
        groups = config.norm_num_groups
        self.resnets = nn.ModuleList([ResnetBlock(channels, channels, groups) for _ in range(2)])
        self.attentions = nn.ModuleList([PixelAttention(channels, groups)] if config.mid_block_add_attention else [])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.resnets
        x = first(x)
        for attention in self.attentions:
            x = attention(x)
        out: Tensor = second(x)
        return out


class Downsample(nn.Module):
    """Halves the feature map; pads right and bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class Upsample(nn.Module):
    """Doubles the feature map by repeating each value, then convolves it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype == torch.bfloat16 else x
        out: Tensor = self.conv(F.interpolate(wide, scale_factor=2.0, mode="nearest").to(x.dtype))
        return out


class DownBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, config: VAEConfig, is_last: bool) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(ResnetBlock(width, out_channels, config.norm_num_groups) for width in widths)
        self.downsamplers = nn.ModuleList([] if is_last else [Downsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        for step in (*self.resnets, *self.downsamplers):
            x = step(x)
        return x


class UpBlock(nn.Module):
    def __init__(self, channels: int, out_channels: int, config: VAEConfig, is_last: bool) -> None:
        super().__init__()
        widths = [channels] + [out_channels] * config.layers_per_block
        self.resnets = nn.ModuleList(ResnetBlock(width, out_channels, config.norm_num_groups) for width in widths)
        self.upsamplers = nn.ModuleList([] if is_last else [Upsample(out_channels)])

    def forward(self, x: Tensor) -> Tensor:
        for step in (*self.resnets, *self.upsamplers):
            x = step(x)
        return x


class Encoder(nn.Module):
    """(B, 3, H, W) -> moments (B, 2C, h, w)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            DownBlock(widths[max(i - 1, 0)], width, config, is_last=i == len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.conv_in(pixels)
        for block in self.down_blocks:
            x = block(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))
        return out


class Decoder(nn.Module):
    """(B, C, h, w) -> (B, 3, H, W)."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.block_out_channels[::-1]
        self.conv_in = nn.Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], width, config, is_last=i == len(widths) - 1)
            for i, width in enumerate(widths)
        )
        self.mid_block = MidBlock(widths[0], config)
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            x = block(x)
        out: Tensor = self.conv_out(F.silu(self.conv_norm_out(x)))
        return out


class VAE(nn.Module):
    """Encoder and decoder. H = h * config.pixels_per_latent, W likewise."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        channels = config.latent_channels
        if config.use_quant_conv:
            self.quant_conv = nn.Conv2d(2 * channels, 2 * channels, 1)
        if config.use_post_quant_conv:
            self.post_quant_conv = nn.Conv2d(channels, channels, 1)

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: (B, 3, H, W) in [-1, 1] -> mean and log variance (float32), each (B, C, h, w); the mean is the mode."""
        moments = self.encoder(pixels)
        if self.config.use_quant_conv:
            moments = self.quant_conv(moments)
        mean, logvar = torch.chunk(moments, 2, dim=1)
        return mean, logvar.float().clamp(*LOGVAR_RANGE)

    def decode(self, latents: Tensor) -> Tensor:
        """latents: (B, C, h, w), unscaled -> pixels (B, 3, H, W), about [-1, 1] and not clamped."""
        if self.config.use_post_quant_conv:
            latents = self.post_quant_conv(latents)
        pixels: Tensor = self.decoder(latents)
        return pixels
