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
from torch import Tensor, nn

from ...reference.transformer import Transformer, initialize
from ...reference.transformer_blocks import ModulatedBlock, PlainBlock
from ...reference.weights import load_mllm, load_vae
from . import checkpoint, pool, sight
from .conversations import Reader
from .loop import Schedule, Training, fused
from .pool import Group

BATCH = 64
BATCHES_A_STEP = 2
"""Each of tasks with as many references and tokens, so that a step sees two kinds of task."""
SHARDS = 8
REQUEST_DROPPED, ALL_DROPPED = 0.08, 0.04
SHORT_TOKENS, SHORT_WEIGHT = 22, 1.5
"""Requests for a drawing of so few tokens, for one thing or several alike, were the hardest to learn: they count more."""
PROBED_LAYER, PROBE_WEIGHT = 3, 0.05
TIME_CENTRE, TIME_SPREAD = -0.2, 1.2
"""Times are drawn as the logistic of a normal: more where the picture's layout is decided than at either end."""
SCHEDULE = Schedule(learning_rate=3e-3, averaging=0.9995, with_muon=True)


class Pupil(nn.Module):
    """The transformer, and a probe for what each image token of the picture to come shows, thrown away afterwards.

    What the picture shows is clear to the probe's layer long before the velocity is right in every detail, and the layer
    learns to know it sooner for being asked (in the spirit of REPA, arXiv 2410.06940, with the scene for a teacher).
    """

    def __init__(self, network: Transformer) -> None:
        super().__init__()
        self.network = network
        self.probe = nn.Linear(network.config.hidden_size, sum(sight.PARTS) + 3)
        self.hidden = torch.empty(0)
        network.layers[PROBED_LAYER].register_forward_hook(self._keep)

    def _keep(self, layer: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        self.hidden = hidden

    def told(self, group: Group, chosen: NDArray[np.int64]) -> Tensor:
        """The probe's error on tasks that the network has just been run on."""
        wanted, where = torch.from_numpy(group.shown[chosen]), torch.from_numpy(group.places[chosen])
        found = self.probe(self.hidden[:, -wanted.shape[1] :]).float()
        kinds, _ = sight.sight_loss(found[..., :-3], wanted)
        there = wanted[..., 1:2] > 0
        error: Tensor = kinds + ((found[..., -3:] - where) * there).square().sum() / there.sum()
        return error


def train(work: Path, seconds: float) -> None:
    """One sitting; writes the averaged weights."""
    torch.manual_seed(0)
    groups, nothing = encoded(work / "pool")
    pupil = Pupil(checkpoint.started("transformer", initialize))
    fused(pupil, ModulatedBlock, PlainBlock)
    training = Training(pupil, SCHEDULE, work / "transformer.pt")
    torch.manual_seed(training.step)
    batches = Batches(groups, nothing, np.random.default_rng([7, training.step]))

    def loss() -> tuple[Tensor, dict[str, float]]:
        total, figures = torch.zeros(()), dict[str, float]()
        for _ in range(BATCHES_A_STEP):
            group, chosen, states, latents = batches.take()
            references = list(latents[:, 1:].unbind(1))
            error = velocity_error(pupil.network, latents[:, 0], references, states, times(len(latents)))
            told = pupil.told(group, chosen)
            total = total + (error + PROBE_WEIGHT * told) / BATCHES_A_STEP
            figures |= {f"references_{len(references)}": float(error.detach()), "told": float(told.detach())}
        return total, figures

    training.run(loss, seconds)
    training.average_into_network()
    checkpoint.save("transformer", pupil.network)


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
    """Draws batches from the pool's groups, a group as often as it is large and hard."""

    def __init__(self, groups: dict[tuple[int, int], Group], nothing: Tensor, rng: np.random.Generator) -> None:
        self.groups = list(groups.values())
        self.nothing = nothing  # (T, Dt): the states of the empty request
        self.rng = rng
        sizes = np.array([len(group.states) * _weight(*key) for key, group in groups.items()])
        self.shares: NDArray[np.float64] = sizes / sizes.sum()

    def take(self) -> tuple[Group, NDArray[np.int64], Tensor, Tensor]:
        """A group and the numbers of tasks in it; states: (B, T, Dt) float32; latents: (B, 1 + r, C, h, w) float32."""
        group = self.groups[int(self.rng.choice(len(self.groups), p=self.shares))]
        chosen = np.sort(self.rng.integers(len(group.states), size=BATCH))
        states = torch.from_numpy(group.states[chosen]).float()
        latents = torch.from_numpy(group.latents[chosen]).float()
        lot = self.rng.random()
        if lot < REQUEST_DROPPED + ALL_DROPPED:
            states = self.nothing.expand(BATCH, -1, -1)
        if lot < ALL_DROPPED:
            latents = latents[:, :1]
        return group, chosen, states, latents


def _weight(references: int, tokens: int) -> float:
    return SHORT_WEIGHT if references == 0 and tokens <= SHORT_TOKENS else 1.0


def encoded(folder: Path) -> tuple[dict[tuple[int, int], Group], Tensor]:
    """The pool's groups, encoded where they are not there yet, and the empty request's states."""
    reader = Reader(checkpoint.CHECKPOINT)
    mllm = load_mllm(checkpoint.CHECKPOINT)
    vae = load_vae(checkpoint.CHECKPOINT)
    for number in range(SHARDS):
        print(pool.write_shard(folder, number, reader, mllm, vae), flush=True)
    with torch.no_grad():
        return pool.load(folder), pool.empty_states(reader, mllm)
