"""Trains the transformer by flow matching on encoded tasks: a straight line from noise (t = 0) to the latents (t = 1).

Whole batches lose their request, or their request and references, now and then: what guidance compares with (the paper's
three branches). Requests are read by the trained language model, which stays as it is.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...reference.transformer import Transformer, initialize
from ...reference.weights import load_mllm, load_vae
from . import checkpoint, pool
from .conversations import Reader
from .loop import Schedule, Training
from .pool import Group

BATCH = 64
SHARDS = 10
REQUEST_DROPPED, ALL_DROPPED = 0.08, 0.04
TIME_CENTRE, TIME_SPREAD = -0.2, 1.2
"""Times are drawn as the logistic of a normal: more where the picture's layout is decided than at either end."""
SCHEDULE = Schedule(learning_rate=1.5e-3, averaging=0.9995, with_muon=True)


def train(work: Path, seconds: float) -> None:
    """One sitting; writes the averaged weights."""
    torch.manual_seed(0)
    groups, nothing = encoded(work / "pool")
    network: Transformer = checkpoint.started("transformer", initialize)
    training = Training(network, SCHEDULE, work / "transformer.pt")
    torch.manual_seed(training.step)
    batches = Batches(groups, nothing, np.random.default_rng([7, training.step]))

    def loss() -> tuple[Tensor, dict[str, float]]:
        states, latents = batches.take()
        error = velocity_error(network, latents[:, 0], list(latents[:, 1:].unbind(1)), states, times(len(latents)))
        return error, {f"references_{latents.shape[1] - 1}": float(error.detach())} if latents.shape[1] == 1 else {}

    training.run(loss, seconds)
    training.average_into_network()
    checkpoint.save("transformer", network)


def times(count: int) -> Tensor:
    """t (count,) in (0, 1), spread evenly over the batch's ranks so that its loss varies less."""
    ranks = (torch.arange(count) + torch.rand(count)) / count
    normal = torch.erfinv(ranks.clamp(1e-4, 1 - 1e-4) * 2 - 1) * 2**0.5
    return torch.sigmoid(TIME_CENTRE + TIME_SPREAD * normal)[torch.randperm(count)]


def velocity_error(
    network: Transformer, latents: Tensor, references: list[Tensor], states: Tensor, t: Tensor
) -> Tensor:
    """Mean squared error of the velocity. latents, references: (B, C, h, w); states: (B, T, Dt); t: (B,)."""
    noise = torch.randn_like(latents)
    along = t[:, None, None, None]
    noisy = (1 - along) * noise + along * latents
    velocity = network(noisy, t, states, references)
    return F.mse_loss(velocity.float(), latents - noise)


class Batches:
    """Draws batches from the pool's groups, a group as often as it is large."""

    def __init__(self, groups: dict[tuple[int, int], Group], nothing: Tensor, rng: np.random.Generator) -> None:
        self.groups = list(groups.values())
        self.nothing = nothing  # (T, Dt): the states of the empty request
        self.rng = rng
        sizes = np.array([len(group.states) for group in self.groups], float)
        self.shares: NDArray[np.float64] = sizes / sizes.sum()

    def take(self) -> tuple[Tensor, Tensor]:
        """states: (B, T, Dt) float32; latents: (B, 1 + r, C, h, w) float32."""
        group = self.groups[int(self.rng.choice(len(self.groups), p=self.shares))]
        chosen = np.sort(self.rng.integers(len(group.states), size=BATCH))
        states = torch.from_numpy(group.states[chosen]).float()
        latents = torch.from_numpy(group.latents[chosen]).float()
        lot = self.rng.random()
        if lot < REQUEST_DROPPED + ALL_DROPPED:
            states = self.nothing.expand(BATCH, -1, -1)
        if lot < ALL_DROPPED:
            latents = latents[:, :1]
        return states, latents


def encoded(folder: Path) -> tuple[dict[tuple[int, int], Group], Tensor]:
    """The pool's groups, encoded where they are not there yet, and the empty request's states."""
    reader = Reader(checkpoint.CHECKPOINT)
    mllm, vae = load_mllm(checkpoint.CHECKPOINT), load_vae(checkpoint.CHECKPOINT)
    for number in range(SHARDS):
        print(pool.write_shard(folder, number, reader, mllm, vae), flush=True)
    with torch.no_grad():
        return pool.load(folder), pool.request_states("", reader, mllm)
