"""The vision encoder of the multimodal language model: Qwen2.5-VL's vision tower, for one image of any size.

Reproduces the numbers of transformers' Qwen2_5_VL vision model, with its parameter names. Departure: that model sorts the patches
by window and loops over windows. Here patches keep their order; blocks with window attention gather them into a batch of windows,
padded to the largest, and scatter them back, so one graph serves any image.
Knows nothing of image files or resizing. The caller computes the index tables of the windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config_values import LAYERS, check_values, object_at

NORM_EPS = 1e-6
RANGES = {
    "depth": LAYERS,
    "num_heads": (1, 4096),
    "in_channels": (1, 4096),
    "patch_size": (1, 1024),
    "temporal_patch_size": (1, 64),
    "spatial_merge_size": (1, 64),
    "window_size": (1, 2**16),
    "fullatt_block_indexes": (0, LAYERS[1]),
}


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The values of `vision_config` in `mllm/config.json`; the defaults are the full model's.

    Raises ValueError where they don't define a network.
    """

    depth: int = 32
    hidden_size: int = 1280
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 2048
    in_channels: int = 3
    patch_size: int = 14
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    window_size: int = 112
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)

    def __post_init__(self) -> None:
        check_values(self, RANGES)
        if self.hidden_size % self.num_heads or self.head_width % 4:
            raise ValueError(
                f"hidden_size={self.hidden_size} over num_heads={self.num_heads} must be a head width divisible by 4"
            )
        if self.window_size < self.patch_size * self.spatial_merge_size:
            raise ValueError(f"window_size={self.window_size} is smaller than a merged patch")

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> VisionConfig:
        """The config from the parsed `mllm/config.json`. Raises ValueError, naming the missing keys."""
        vision = object_at(config, "vision_config")
        vision.setdefault("in_channels", vision.get("in_chans", 3))
        required = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size")
        if missing := [key for key in required if vision.get(key) is None]:
            raise ValueError(f"mllm config's vision_config lacks {missing}")
        if vision.get("hidden_act", "silu") != "silu":
            raise ValueError(f"vision_config has hidden_act={vision['hidden_act']!r}; only 'silu' is supported")
        return cls(**{key: vision[key] for key in cls.__dataclass_fields__ if key in vision})

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_values(self) -> int:
        """The values of a flattened patch (1176)."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2


class Windows(NamedTuple):
    """The patches of each window, for W windows of at most M patches.

    members: (W, M) int64, patch numbers; any valid number in an empty slot.
    present: (W, M) bool, false in an empty slot.
    slots: (N,) int64, the index of patch n among the W*M slots.
    """

    members: Tensor
    present: Tensor
    slots: Tensor


class VisionAttention(nn.Module):
    """Self-attention within each window, or over the whole image."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, windows: Windows | None) -> Tensor:
        """hidden: (N, D); cos, sin: (N, Dh) float32."""
        heads = [part.reshape(part.shape[0], -1, self.head_width) for part in torch.chunk(self.qkv(hidden), 3, dim=-1)]
        query, key, value = _rotate(heads[0], cos, sin), _rotate(heads[1], cos, sin), heads[2]
        if windows is None:
            mixed = _attend(query.unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), None).squeeze(0)
        else:
            query, key, value = (_gather(part, windows.members) for part in (query, key, value))
            mixed = _attend(query, key, value, _visible(windows.present))
            mixed = mixed.flatten(0, 1).index_select(0, windows.slots)
        out: Tensor = self.proj(mixed.flatten(1))
        return out


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = torch.chunk(x.float(), 2, dim=-1)
    swapped = torch.cat((-second, first), dim=-1)
    return (x.float() * cos.unsqueeze(1) + swapped * sin.unsqueeze(1)).to(x.dtype)


def _gather(heads: Tensor, members: Tensor) -> Tensor:
    """(N, H, Dh) -> (W, M, H, Dh)"""
    return heads.index_select(0, members.flatten()).reshape(*members.shape, *heads.shape[1:])


def _visible(present: Tensor) -> Tensor:
    """(W, M) -> (W, 1, M, M): every patch attends to those present in its window."""
    return present[:, None, None, :].expand(-1, -1, present.shape[1], -1)


def _attend(query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
    """Three of (B, S, H, Dh) -> (B, S, H, Dh)"""
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=visible).transpose(1, 2)


class VisionMLP(nn.Module):
    """SwiGLU with biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return out


class VisionBlock(nn.Module):
    """Attention and MLP, each after a norm."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(config.hidden_size, eps=NORM_EPS)
        self.norm2 = nn.RMSNorm(config.hidden_size, eps=NORM_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, windows: Windows | None) -> Tensor:
        hidden = hidden + self.attn(self.norm1(hidden), cos, sin, windows)
        out: Tensor = hidden + self.mlp(self.norm2(hidden))
        return out


class PatchEmbedder(nn.Module):
    """A convolution whose stride is its kernel size, computed as a product with flattened patches. The weight keeps its shape."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel, stride=kernel, bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        return F.linear(patches, self.proj.weight.flatten(1))


class PatchMerger(nn.Module):
    """Four neighbouring patches -> one embedding of the language model's width."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.merged_width = config.hidden_size * config.spatial_merge_size**2
        self.ln_q = nn.RMSNorm(config.hidden_size, eps=NORM_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(self.merged_width, self.merged_width),
            nn.GELU(),
            nn.Linear(self.merged_width, config.out_hidden_size),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.mlp(self.ln_q(hidden).reshape(-1, self.merged_width))
        return out


class VisionEncoder(nn.Module):
    """One image's patches -> a quarter as many embeddings."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedder(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(
        self,
        patches: Tensor,
        cos: Tensor,
        sin: Tensor,
        window_members: Tensor,
        window_present: Tensor,
        window_slots: Tensor,
    ) -> Tensor:
        """Returns (N/4, Dt) in the order of the patches.

        patches: (N, 1176), the four of a merged patch one after another, as Qwen's image processor orders them.
        cos, sin: (N, Dh) float32, of the patches' rows and columns.
        window_members: (W, M) int64, window_present: (W, M) bool, window_slots: (N,) int64: the fields of `Windows`.
        """
        windows = Windows(window_members, window_present, window_slots)
        hidden = self.patch_embed(patches)
        for number, block in enumerate(self.blocks):
            is_global = number in self.config.fullatt_block_indexes
            hidden = block(hidden, cos, sin, None if is_global else windows)
        embeddings: Tensor = self.merger(hidden)
        return embeddings
