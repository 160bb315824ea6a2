"""The multimodal language model that reads prompts: Qwen2.5-VL's text model, and its pair with the vision encoder.

Reproduces the numbers of transformers' Qwen2_5_VL (models/qwen2_5_vl), with its parameter names inside each part. The
caller computes the rope tables and passes the KV cache in and out, so one function serves a whole prompt and a single
token. Knows nothing of tokenizers, sampling, ONNX, files or devices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config_values import LAYERS, check_values, object_at
from .vision import VisionConfig, VisionEncoder

RANGES = {
    "num_hidden_layers": LAYERS,
    "num_attention_heads": (1, 4096),
    "num_key_value_heads": (1, 4096),
    "mrope_section": (0, 2**16),
    "image_token_id": (0, 2**24),
    "vision_start_token_id": (0, 2**24),
    "vision_end_token_id": (0, 2**24),
}


@dataclass(frozen=True, kw_only=True)
class MLLMConfig:
    """The text model's values in `mllm/config.json`; the defaults are the full model's.

    Raises ValueError where they don't define a network.
    """

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 11008
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    tie_word_embeddings: bool = True
    image_token_id: int = 151655
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    def __post_init__(self) -> None:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        check_values(self, RANGES)
        if self.hidden_size % heads or heads % kv_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of num_attention_heads={heads}, "
                f"and that of num_key_value_heads={kv_heads}"
            )
        if 2 * sum(self.mrope_section) != self.head_width:
            raise ValueError(f"mrope_section={self.mrope_section} must be three numbers summing to {self.head_width}/2")

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> MLLMConfig:
        """The text model's config from the parsed file: flat, as by transformers 4.51, or under `text_config`, as by newer ones.

        Raises ValueError, naming the keys, for a missing or unsupported one.
        """
        text = {**config, **object_at(config, "text_config")}
        required = (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "rms_norm_eps",
        )  # fmt: skip
        if missing := [key for key in required if text.get(key) is None]:
            raise ValueError(f"mllm config lacks {missing}")
        if text.get("hidden_act", "silu") != "silu" or text.get("use_sliding_window"):
            raise ValueError("mllm config asks for another activation than silu, or for a sliding window")
        token_ids = ("image_token_id", "vision_start_token_id", "vision_end_token_id")
        return cls(
            **{key: text[key] for key in required},
            **{key: config[key] for key in token_ids if key in config},
            **_rope_settings(text),
            tie_word_embeddings=any(_flag(part, "tie_word_embeddings") for part in (config, text)),
        )

    @property
    def head_width(self) -> int:
        return self.hidden_size // self.num_attention_heads


def _flag(config: Mapping[str, Any], key: str) -> bool:
    value = config.get(key)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{key}={value!r} must be true or false")
    return bool(value)


def _rope_settings(text: Mapping[str, Any]) -> dict[str, Any]:
    rope = {**object_at(text, "rope_scaling"), **object_at(text, "rope_parameters")}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise ValueError(f"mllm config has rope type {kind!r}; 'default' and 'mrope' are supported")
    settings = {"rope_theta": rope.get("rope_theta", text.get("rope_theta"))}
    settings["mrope_section"] = rope.get("mrope_section")
    return {key: value for key, value in settings.items() if value is not None}


def mrope_tables(positions: Tensor, head_width: int, theta: float, section: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Cosine and sine of each token's angles. The three axes share the frequencies in consecutive runs of `section`.

    positions: (3, B, T) integers: time, row, column. Returns cos, sin: (B, T, Dh) float32, whose halves are equal.
    """
    exponents = torch.arange(0, head_width, 2, dtype=torch.float64, device=positions.device) / head_width
    angles = positions.unsqueeze(-1).double() * theta**-exponents
    runs = [run[axis] for axis, run in enumerate(torch.split(angles, list(section), dim=-1))]
    half = torch.cat(runs, dim=-1)
    both = torch.cat((half, half), dim=-1)
    return both.cos().float(), both.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotation of (first half, second half) pairs, in float32. x: (B, H, T, Dh); cos, sin: (B, T, Dh) float32."""
    first, second = torch.chunk(x.float(), 2, dim=-1)
    swapped = torch.cat((-second, first), dim=-1)
    return (x.float() * cos.unsqueeze(1) + swapped * sin.unsqueeze(1)).to(x.dtype)


class TextAttention(nn.Module):
    """Grouped-query attention over the KV cache and the new tokens."""

    def __init__(self, config: MLLMConfig) -> None:
        super().__init__()
        self.head_width = config.head_width
        width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_width
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, kv_width)
        self.v_proj = nn.Linear(width, kv_width)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the output (B, T, Dt) and the keys and values (B, kvH, P+T, Dh), past first."""
        key = torch.cat((past_key, rotate(self._heads(self.k_proj(hidden)), cos, sin)), dim=2)
        value = torch.cat((past_value, self._heads(self.v_proj(hidden))), dim=2)
        query = rotate(self._heads(self.q_proj(hidden)), cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), key, value

    def _heads(self, projected: Tensor) -> Tensor:
        heads = projected.shape[-1] // self.head_width  # a number, not -1: a traced graph then states the number of heads
        return projected.reshape(*projected.shape[:-1], heads, self.head_width).transpose(1, 2)


class TextMLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: MLLMConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return out


class TextLayer(nn.Module):
    """Attention and MLP, each after a norm."""

    def __init__(self, config: MLLMConfig) -> None:
        super().__init__()
        self.self_attn = TextAttention(config)
        self.mlp = TextMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, past_key: Tensor, past_value: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.input_layernorm(hidden)
        attended, key, value = self.self_attn(normed, cos, sin, mask, past_key, past_value)
        hidden = hidden + attended
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), key, value


class LanguageModel(nn.Module):
    """Tokens and image embeddings -> hidden states -> logits.

    `embed_tokens(ids)`: (B, T) int64 -> (B, T, Dt). All tensors but the rope tables have the weights' dtype.
    """

    def __init__(self, config: MLLMConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        if not config.tie_word_embeddings:
            self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        inputs_embeds: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        past_keys: Sequence[Tensor],
        past_values: Sequence[Tensor],
    ) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """The new tokens' hidden states after the final norm, (B, T, Dt), and each layer's keys and values.

        inputs_embeds: (B, T, Dt), image embeddings in place of image tokens.
        cos, sin: (B, T, Dh) float32.
        mask: (B or 1, 1, T, P+T), bool (true: attend) or added to the scores.
        past_keys, past_values: a tensor (B, kvH, P, Dh) for each layer; P may be 0.
        The returned keys and values are (B, kvH, P+T, Dh).
        """
        hidden, keys, values = inputs_embeds, [], []
        for layer, past_key, past_value in zip(self.layers, past_keys, past_values, strict=True):
            hidden, key, value = layer(hidden, cos, sin, mask, past_key, past_value)
            keys.append(key)
            values.append(value)
        return self.norm(hidden), keys, values

    def lm_head(self, hidden: Tensor) -> Tensor:
        """hidden: (..., Dt) -> logits (..., vocab_size), with the embedding's weight where the two are tied."""
        weight = self.embed_tokens.weight if self.config.tie_word_embeddings else self.head.weight
        return F.linear(hidden, weight)

    def empty_cache(self, batch: int) -> tuple[list[Tensor], list[Tensor]]:
        """Keys and values of an empty KV cache, a pair for each layer."""
        weight = self.norm.weight
        shape = (batch, self.config.num_key_value_heads, 0, self.config.head_width)
        keys = [torch.zeros(shape, dtype=weight.dtype, device=weight.device) for _ in self.layers]
        return keys, list(keys)


class MLLM(nn.Module):
    """Holds the language model and the vision encoder."""

    def __init__(self, config: MLLMConfig, vision_config: VisionConfig) -> None:
        super().__init__()
        self.language_model = LanguageModel(config)
        self.visual = VisionEncoder(vision_config)
