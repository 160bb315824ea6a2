"""Encoded drawing tasks for the transformer's training: hidden states of requests, latents of pictures.

Tasks are grouped by the numbers of references and of tokens, so a batch needs no padding and no masks. All arrays lie on the
training's device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...reference.mllm import MLLM
from ...reference.vae import VAE
from .corpus import Corpus, run_mllm
from .episodes import Encoder
from .shards import Shard, pack, to_device
from .vae import to_pixels

ENCODING_TOKENS = 6144
ENCODING_PICTURES = 64


class Group(NamedTuple):
    """n tasks of r references and T tokens.

    tokens: (n, T) int64, the tokens whose states guide the drawing.
    pictures: (n, 1 + r) int64, the target and the references.
    """

    tokens: NDArray[np.int64]
    pictures: NDArray[np.int64]


class Pool:
    """The tasks of shards with pictures of one size, encoded.

    states: (N, Dt) float16, the hidden states of all tokens.
    latents: (P, C, h, w) float16, the scaled latents of all pictures.
    labels: (P, L, 7) int8; offsets: (P, L, 3) float16: `token_labels` and `token_offsets`.
    groups: by numbers of references and tokens.
    """

    def __init__(self) -> None:
        self.states, self.latents = torch.zeros(0), torch.zeros(0)
        self.labels, self.offsets = torch.zeros(0), torch.zeros(0)
        self.groups: dict[tuple[int, int], Group] = {}

    def add(self, states: Tensor, latents: Tensor, labels: Tensor, offsets: Tensor, groups: dict[tuple[int, int], Group]) -> None:
        """Add a shard's encoded tasks, whose tokens and pictures count from its first."""
        for key, (tokens, pictures) in groups.items():
            moved = Group(tokens + len(self.states), pictures + len(self.latents))
            known = self.groups.get(key)
            self.groups[key] = Group(*map(np.concatenate, zip(known, moved, strict=True))) if known else moved
        self.states, self.latents = _joined(self.states, states), _joined(self.latents, latents)
        self.labels, self.offsets = _joined(self.labels, labels), _joined(self.offsets, offsets)


def _joined(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second]) if len(first) else second


def encode_shards(
    shards: Iterable[tuple[Shard, NDArray[np.uint8]]],
    encoder: Encoder,
    mllm: MLLM,
    vae: VAE,
    device: torch.device,
    scale: int = 1,
) -> list[Pool]:
    """A pool of the shards of each size, encoded."""
    pools = defaultdict[tuple[int, ...], Pool](Pool)
    for shard, pictures in shards:
        pools[tuple(shard.size_px.tolist())].add(
            encode_tokens(shard, pictures, encoder, mllm, device, scale),
            encode_pictures(vae, to_device(pictures, device), scale),
            to_device(shard.target_labels, device),
            to_device(shard.target_offsets, device),
            group_drawings(shard, encoder.image_token),
        )
    return list(pools.values())


def group_drawings(shard: Shard, image_token: int) -> dict[tuple[int, int], Group]:
    """The shard's drawings, by their numbers of references and of tokens; tokens of pictures don't count."""
    starts = np.cumsum(shard.lengths, dtype=np.int64) - shard.lengths
    members: dict[tuple[int, int], list[tuple[NDArray[np.int64], NDArray[np.int64]]]] = defaultdict(list)
    for episode, start, end, *pictures in shard.drawings.tolist():
        span = np.arange(starts[episode] + start, starts[episode] + end)
        tokens, used = span[shard.ids[span] != image_token], np.array([k for k in pictures if k >= 0])
        members[len(used) - 1, len(tokens)].append((tokens, used))
    return {key: Group(*map(np.stack, zip(*rows, strict=True))) for key, rows in members.items()}


@torch.no_grad()
def encode_tokens(
    shard: Shard, pictures: NDArray[np.uint8], encoder: Encoder, mllm: MLLM, device: torch.device, scale: int = 1
) -> Tensor:
    """The hidden states of all of the shard's tokens, (N, Dt) float16; zeros in episodes without a drawing."""
    corpus = Corpus([(shard, pictures)], encoder, device)
    width = mllm.language_model.config.hidden_size
    states = torch.zeros(len(shard.ids), width, dtype=torch.float16, device=device)
    for rows in corpus.cut(np.unique(shard.drawings[:, 0]).astype(np.int64), ENCODING_TOKENS * scale):
        batch = corpus.batch(rows)
        hidden, _ = run_mllm(mllm, batch, encoder)
        tokens = [np.arange(corpus.starts[row], corpus.starts[row] + corpus.lengths[row]) for row in rows]
        states[to_device(np.concatenate(tokens), device)] = hidden[batch.attention_mask].half()
    return states


@torch.no_grad()
def encode_pictures(vae: VAE, pictures: Tensor, scale: int = 1) -> Tensor:
    """Scaled latents (P, C, h, w) float16 of pictures (P, height, width, 3) uint8."""
    parts = []
    for part in torch.split(pictures, ENCODING_PICTURES * scale):
        # bfloat16 is three times as fast on a CPU, and the decoder tolerates ten times its error
        with torch.autocast("cpu", torch.bfloat16, enabled=pictures.device.type == "cpu"):
            mean, _ = vae.encode(to_pixels(part))
        parts.append(scale_latents(vae, mean.float()).half())
    return torch.cat(parts)


def scale_latents(vae: VAE, latents: Tensor) -> Tensor:
    """Shift and scale the autoencoder's latents to the transformer's space."""
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def encode_empty_requests(encoder: Encoder, mllm: MLLM, device: torch.device) -> tuple[Tensor, Tensor]:
    """The hidden states (T, Dt) of the empty request: with the drawing template, and as a conversation's first turn."""
    episodes = encoder.request(""), encoder.question("")
    drawing, chat = (_states(pack([episode], encoder), encoder, mllm, device) for episode in episodes)
    return drawing, chat


@torch.no_grad()
def _states(shard: Shard, encoder: Encoder, mllm: MLLM, device: torch.device) -> Tensor:
    corpus = Corpus([(shard, shard.pictures)], encoder, device)
    return run_mllm(mllm, corpus.batch(np.zeros(1, np.int64)), encoder)[0][0]
