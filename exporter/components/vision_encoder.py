"""The vision encoder: one image's patches to embeddings. The host computes the window tables.

The reference expands the attention mask over the queries, because not every runtime broadcasts it.
"""

from __future__ import annotations

import numpy as np
import torch

from ...reference.mllm import MLLM
from ...reference.vision import VisionConfig
from .component import Component, Tensor, Tensors, cosines


def _inputs(config: VisionConfig) -> Tensors:
    table = Tensor(shape=("patches", config.head_width), dtype="float32")
    return {
        "patches": Tensor(shape=("patches", config.patch_values), dtype="float32"),
        "cos": table,
        "sin": table,
        "window_members": Tensor(shape=("windows", "window_patches"), dtype="int64"),
        "window_present": Tensor(shape=("windows", "window_patches"), dtype="bool"),
        "window_slots": Tensor(shape=("patches",), dtype="int64"),
    }


def _encode(network: MLLM, patches: torch.Tensor, *tables: torch.Tensor) -> torch.Tensor:
    embeds: torch.Tensor = network.visual(patches.to(network.visual.patch_embed.proj.weight.dtype), *tables)
    return embeds.float()


def _in_order(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Consecutive patch numbers: a sample whose windows are all full."""
    return np.arange(np.prod(shape), dtype=np.int64).reshape(shape)


vision_encoder = Component(
    name="vision_encoder",
    part="mllm",
    config="vision",
    forward=_encode,
    inputs=_inputs,
    outputs=lambda c: {"image_embeds": Tensor(shape=("image_tokens", c.out_hidden_size), dtype="float32")},
    sizes={"patches": 48, "windows": 3, "window_patches": 16, "image_tokens": 12},
    draw={
        "cos": cosines,
        "sin": cosines,
        "window_members": _in_order,
        "window_slots": _in_order,
        "window_present": lambda rng, shape: np.ones(shape, bool),
    },
)
