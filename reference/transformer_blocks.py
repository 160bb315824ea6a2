"""The blocks of OmniGen2's transformer: grouped-query attention with Omni-RoPE, and SwiGLU, between four norms.

There are two kinds: plain blocks for text, and blocks modulated by the timestep for sequences with images. Follows the paper
(arXiv 2506.18871, section 3) and reproduces the numbers of VectorSpaceLab/OmniGen2, with its parameter names. Knows nothing
of what the tokens are; the rotation of heads is a callable argument.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .rope import Rope
from .transformer_config import TransformerConfig

QK_NORM_EPS = 1e-5


class Attention(nn.Module):
    """Grouped-query self-attention with normalised, rotated queries and keys."""

    def __init__(self, config: TransformerConfig, rope: Rope) -> None:
        super().__init__()
        self.rope = rope
        self.head_width = config.head_width
        width, kv_width = config.hidden_size, config.num_kv_heads * config.head_width
        self.norm_q = nn.RMSNorm(config.head_width, eps=QK_NORM_EPS)
        self.norm_k = nn.RMSNorm(config.head_width, eps=QK_NORM_EPS)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, kv_width, bias=False)
        self.to_v = nn.Linear(width, kv_width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width, bias=False)])

    def forward(
        self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None, first_query: int | None = None
    ) -> Tensor:
        """hidden: (B, S, D); mask: (B, S) bool, true for keys to attend to; first_query: the first token that is a query."""
        key = self.rope(self._heads(self.to_k(hidden)), self.norm_k.weight, cos, sin, QK_NORM_EPS)
        value = self._heads(self.to_v(hidden)).transpose(1, 2)
        if first_query is not None:
            hidden, cos, sin = hidden[:, first_query:], cos[..., first_query:, :], sin[..., first_query:, :]
        query = self.rope(self._heads(self.to_q(hidden)), self.norm_q.weight, cos, sin, QK_NORM_EPS)
        visible = None if mask is None else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, enable_gqa=True)
        out: Tensor = self.to_out[0](mixed.transpose(1, 2).flatten(2))
        return out

    def _heads(self, projected: Tensor) -> Tensor:
        heads = projected.shape[-1] // self.head_width  # a number, not -1: a traced graph then states the number of heads
        return projected.reshape(*projected.shape[:-1], heads, self.head_width)


class FeedForward(nn.Module):
    """SwiGLU: linear_2(silu(linear_1(x)) * linear_3(x))."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(config.hidden_size, config.ffn_width, bias=False)
        self.linear_2 = nn.Linear(config.ffn_width, config.hidden_size, bias=False)
        self.linear_3 = nn.Linear(config.hidden_size, config.ffn_width, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.linear_2(F.silu(self.linear_1(hidden)) * self.linear_3(hidden))
        return out


class PlainBlock(nn.Module):
    """A block of the context refiner: attention and feed-forward, normalized before and after, without the timestep."""

    def __init__(self, config: TransformerConfig, rope: Rope) -> None:
        super().__init__()
        self.attn = Attention(config, rope)
        self.feed_forward = FeedForward(config)
        self.norm1 = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.norm2 = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm1 = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm2 = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None = None) -> Tensor:
        hidden = hidden + self.norm2(self.attn(self.norm1(hidden), cos, sin, mask))
        out: Tensor = hidden + self.ffn_norm2(self.feed_forward(self.ffn_norm1(hidden)))
        return out


class ModulatedNorm(nn.Module):
    """The norm before attention, scaled by the timestep. Also computes the block's gates and second scale from it."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.conditioning_width, 4 * config.hidden_size)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(self, hidden: Tensor, temb: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the normalized hidden states (B, S, D), then attention gate, FFN scale and FFN gate, each (B, 1, D)."""
        scale, gate, ffn_scale, ffn_gate = self.linear(F.silu(temb)).unsqueeze(1).chunk(4, dim=-1)
        return self.norm(hidden) * (1 + scale), gate, ffn_scale, ffn_gate


class ModulatedBlock(nn.Module):
    """A block of the joint layers and of the image refiners, gated and scaled by the timestep."""

    def __init__(self, config: TransformerConfig, rope: Rope) -> None:
        super().__init__()
        self.attn = Attention(config, rope)
        self.feed_forward = FeedForward(config)
        self.norm1 = ModulatedNorm(config)
        self.norm2 = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm1 = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
        self.ffn_norm2 = nn.RMSNorm(config.hidden_size, eps=config.norm_eps)

    def forward(
        self,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        temb: Tensor,
        mask: Tensor | None = None,
        first_query: int | None = None,
    ) -> Tensor:
        """hidden: (B, S, D) -> (B, S, D), or only the tokens from `first_query` on, which still attend to all of S."""
        normed, gate, ffn_scale, ffn_gate = self.norm1(hidden, temb)
        attended = self.attn(normed, cos, sin, mask, first_query)
        if first_query is not None:
            hidden = hidden[:, first_query:]
        hidden = hidden + gate.tanh() * self.norm2(attended)
        changed = self.feed_forward(self.ffn_norm1(hidden) * (1 + ffn_scale))
        out: Tensor = hidden + ffn_gate.tanh() * self.ffn_norm2(changed)
        return out
