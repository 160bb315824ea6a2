"""The config of OmniGen2's transformer. Knows nothing of torch; the defaults are the full model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .config_values import ANY_COUNT, LAYERS, check_values

RANGES = {
    "patch_size": (1, 64),
    "in_channels": (1, 4096),
    "out_channels": (1, 4096),
    "num_layers": LAYERS,
    "num_refiner_layers": (0, LAYERS[1]),
    "num_attention_heads": (1, 4096),
    "num_kv_heads": (1, 4096),
    "ffn_dim_multiplier": (1e-3, 1e3),
    "max_references": (0, 1024),
}


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The values of `transformer/config.json`. Raises ValueError where they don't define a network.

    axes_lens: the ends of the original's rope tables; ours have none.
    rope_theta, max_references: constants of the published model, not in its file.
    """

    patch_size: int = 2
    in_channels: int = 16
    out_channels: int | None = None  # None: in_channels
    hidden_size: int = 2520
    num_layers: int = 32
    num_refiner_layers: int = 2
    num_attention_heads: int = 21
    num_kv_heads: int = 7
    multiple_of: int = 256
    ffn_dim_multiplier: float | None = None
    norm_eps: float = 1e-5
    axes_dim_rope: tuple[int, int, int] = (40, 40, 40)
    axes_lens: tuple[int, int, int] = (1024, 1664, 1664)
    text_feat_dim: int = 2048
    timestep_scale: float = 1000.0
    rope_theta: float = 10000.0
    max_references: int = 5

    def __post_init__(self) -> None:
        check_values(self, RANGES)
        if not 1 <= self.ffn_width <= ANY_COUNT[1]:
            raise ValueError(f"ffn_dim_multiplier={self.ffn_dim_multiplier!r} gives the feed-forward a width of {self.ffn_width}")
        self._check_heads()

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> TransformerConfig:
        """The config from the parsed file. Keys that start with "_" belong to diffusers and are ignored.

        Raises ValueError, naming the unknown keys.
        """
        known = {field.name for field in fields(cls)}
        settings = {key: value for key, value in config.items() if not key.startswith("_")}
        if unknown := sorted(settings.keys() - known):
            raise ValueError(f"transformer config has unknown keys {unknown}; known are {sorted(known)}")
        return cls(**settings)

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def conditioning_width(self) -> int:
        """Width of the timestep embedding."""
        return min(self.hidden_size, 1024)

    @property
    def ffn_width(self) -> int:
        width = 4 * self.hidden_size
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return -(-width // self.multiple_of) * self.multiple_of

    @property
    def velocity_channels(self) -> int:
        return self.in_channels if self.out_channels is None else self.out_channels

    def _check_heads(self) -> None:
        heads, axes = self.num_attention_heads, self.axes_dim_rope
        if any(dim % 2 for dim in axes):
            raise ValueError(f"axes_dim_rope={axes} must be three even integers")
        if self.hidden_size != heads * sum(axes):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be num_attention_heads={heads} times "
                f"the head width {sum(axes)}, the sum of axes_dim_rope={axes}"
            )
        if heads % self.num_kv_heads:
            raise ValueError(f"num_attention_heads={heads} must be a multiple of num_kv_heads={self.num_kv_heads}")
