"""The language model's components.

One graph serves the prompt (with an empty KV cache) and every generated token. Embeddings are float32 in every precision: the
host inserts image embeddings among them, and need not know bfloat16.
"""

from __future__ import annotations

import numpy as np
import torch

from ...reference.mllm import MLLM, MLLMConfig
from .component import Component, Tensor, Tensors, cosines


def _past(config: MLLMConfig, prefix: str, tokens: str) -> Tensors:
    shape = ("batch", config.num_key_value_heads, tokens, config.head_width)
    layers = range(config.num_hidden_layers)
    return {f"{prefix}_{kind}_{k}": Tensor(shape=shape) for kind in ("key", "value") for k in layers}


def _rope(config: MLLMConfig) -> Tensors:
    table = Tensor(shape=("batch", "text_tokens", config.head_width), dtype="float32")
    return {"cos": table, "sin": table}


def _run(
    network: MLLM,
    inputs_embeds: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    mask: torch.Tensor,
    *past: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    model, layers = network.language_model, len(past) // 2
    embeds = inputs_embeds.to(model.norm.weight.dtype)
    hidden, keys, values = model(embeds, cos, sin, mask, list(past[:layers]), list(past[layers:]))
    return (hidden.float(), *keys, *values)


def _causal(shape: tuple[int, ...]) -> np.ndarray:
    new, total = shape[2:]
    return np.broadcast_to(np.tri(new, total, total - new, dtype=bool), shape).copy()


def _logits(network: MLLM, hidden_states: torch.Tensor) -> torch.Tensor:
    model = network.language_model
    return model.lm_head(hidden_states.to(model.norm.weight.dtype)).float()


token_embedding = Component(
    name="token_embedding",
    part="mllm",
    forward=lambda network, input_ids: network.language_model.embed_tokens(input_ids).float(),
    inputs=lambda c: {"input_ids": Tensor(shape=("batch", "text_tokens"), dtype="int64")},
    outputs=lambda c: {"inputs_embeds": Tensor(shape=("batch", "text_tokens", c.hidden_size), dtype="float32")},
    sizes={"batch": 2, "text_tokens": 9},
    draw={"input_ids": lambda rng, shape: rng.integers(0, 32, shape, dtype=np.int64)},
)

language_model = Component(
    name="language_model",
    part="mllm",
    forward=_run,
    inputs=lambda c: {
        "inputs_embeds": Tensor(shape=("batch", "text_tokens", c.hidden_size), dtype="float32"),
        **_rope(c),
        "mask": Tensor(shape=("batch", 1, "text_tokens", "total_tokens"), dtype="bool"),
        **_past(c, "past", "past_tokens"),
    },
    outputs=lambda c: {
        "hidden_states": Tensor(shape=("batch", "text_tokens", c.hidden_size), dtype="float32"),
        **_past(c, "present", "total_tokens"),
    },
    sizes={"batch": 2, "text_tokens": 9, "past_tokens": 4, "total_tokens": 13},
    draw={"cos": cosines, "sin": cosines, "mask": lambda rng, shape: _causal(shape)},
)

lm_head = Component(
    name="lm_head",
    part="mllm",
    forward=_logits,
    inputs=lambda c: {"hidden_states": Tensor(shape=("batch", c.hidden_size), dtype="float32")},
    outputs=lambda c: {"logits": Tensor(shape=("batch", c.vocab_size), dtype="float32")},
    sizes={"batch": 2},
)
