"""Trains the transformer by flow matching on encoded tasks: a straight line from noise (t = 0) to the latents (t = 1).

For guidance (the paper's three branches), random batches drop their request, or their request and references. The trained
language model that encodes requests is frozen.
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
from . import checkpoint, pool, vision_encoder
from .conversations import Processor
from .loop import Schedule, Training, compile_blocks
from .pool import Group

BATCH = 64
BATCHES_PER_STEP = 2
"""Each from one group of the pool, so a step combines two kinds of tasks."""
SHARDS = 8
DROP_REQUEST, DROP_ALL = 0.08, 0.04
SHORT_TOKENS, SHORT_WEIGHT = 22, 1.5
"""The weight of drawing requests up to this length, for one thing or several alike ones: they are the hardest to learn."""
PROBE_LAYER, PROBE_WEIGHT = 3, 0.05
TIME_MEAN, TIME_STD = -0.2, 1.2
"""Parameters of the logit-normal distribution of times: most are where the picture's layout is decided."""
SCHEDULE = Schedule(learning_rate=3e-3, averaging=0.9995, with_muon=True)


class TransformerWithProbe(nn.Module):
    """The transformer with a probe that predicts the target's token labels and offsets, discarded afterwards.

    The auxiliary loss makes its layer learn the picture's content sooner (as REPA, arXiv 2410.06940, with the scene as the
    teacher).
    """

    def __init__(self, network: Transformer) -> None:
        super().__init__()
        self.network = network
        self.probe = nn.Linear(network.config.hidden_size, sum(vision_encoder.LABEL_CLASSES) + 3)
        self.hidden = torch.empty(0)
        network.layers[PROBE_LAYER].register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, layer: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        self.hidden = hidden

    def probe_loss(self, group: Group, chosen: NDArray[np.int64]) -> Tensor:
        """The probe's loss on the chosen tasks of the group, which must be the last batch of the network."""
        labels, offsets = torch.from_numpy(group.labels[chosen]), torch.from_numpy(group.offsets[chosen])
        outputs = self.probe(self.hidden[:, -labels.shape[1] :]).float()
        label_loss, _ = vision_encoder.probe_loss(outputs[..., :-3], labels)
        has_thing = labels[..., 1:2] > 0
        loss: Tensor = label_loss + ((outputs[..., -3:] - offsets) * has_thing).square().sum() / has_thing.sum()
        return loss


def train(work: Path, seconds: float) -> None:
    """Run one session. Writes the averaged weights."""
    torch.manual_seed(0)
    groups, empty_states = encode_pool(work / "pool")
    model = TransformerWithProbe(checkpoint.load_or_build("transformer", initialize))
    compile_blocks(model, ModulatedBlock, PlainBlock)
    training = Training(model, SCHEDULE, work / "transformer.pt")
    torch.manual_seed(training.step)
    batches = Batches(groups, empty_states, np.random.default_rng([7, training.step]))

    def loss() -> tuple[Tensor, dict[str, float]]:
        total, metrics = torch.zeros(()), dict[str, float]()
        for _ in range(BATCHES_PER_STEP):
            group, chosen, states, latents = batches.take()
            references = list(latents[:, 1:].unbind(1))
            error = velocity_error(model.network, latents[:, 0], references, states, sample_times(len(latents)))
            probe_loss = model.probe_loss(group, chosen)
            total = total + (error + PROBE_WEIGHT * probe_loss) / BATCHES_PER_STEP
            metrics |= {
                f"references_{len(references)}": float(error.detach()),
                "probe_loss": float(probe_loss.detach()),
            }
        return total, metrics

    training.run(loss, seconds)
    training.load_averaged_weights()
    checkpoint.save("transformer", model.network)


def sample_times(count: int) -> Tensor:
    """Random times (count,) in (0, 1), stratified over the batch to reduce the variance of its loss."""
    ranks = (torch.arange(count) + torch.rand(count)) / count
    normal = torch.erfinv(ranks.clamp(1e-4, 1 - 1e-4) * 2 - 1) * 2**0.5
    return torch.sigmoid(TIME_MEAN + TIME_STD * normal)[torch.randperm(count)]


def velocity_error(
    network: Transformer, latents: Tensor, references: list[Tensor], states: Tensor, t: Tensor
) -> Tensor:
    """Mean squared error of the velocity. latents, references: (B, C, h, w); states: (B, T, Dt); t: (B,)."""
    noise = torch.randn_like(latents)
    weight = t[:, None, None, None]
    noisy = (1 - weight) * noise + weight * latents
    velocity = network(noisy, t, states, references)
    return F.mse_loss(velocity.float(), latents - noise)


class Batches:
    """Draws batches from the pool's groups, in proportion to their size and weight."""

    def __init__(self, groups: dict[tuple[int, int], Group], empty_states: Tensor, rng: np.random.Generator) -> None:
        self.groups = list(groups.values())
        self.empty_states = empty_states  # (T, Dt), of the empty request
        self.rng = rng
        sizes = np.array([len(group.states) * _weight(*key) for key, group in groups.items()])
        self.probabilities: NDArray[np.float64] = sizes / sizes.sum()

    def take(self) -> tuple[Group, NDArray[np.int64], Tensor, Tensor]:
        """A group, indices of tasks in it, their states (B, T, Dt) float32 and latents (B, 1 + r, C, h, w) float32."""
        group = self.groups[int(self.rng.choice(len(self.groups), p=self.probabilities))]
        chosen = np.sort(self.rng.integers(len(group.states), size=BATCH))
        states = torch.from_numpy(group.states[chosen]).float()
        latents = torch.from_numpy(group.latents[chosen]).float()
        drop = self.rng.random()
        if drop < DROP_REQUEST + DROP_ALL:
            states = self.empty_states.expand(BATCH, -1, -1)
        if drop < DROP_ALL:
            latents = latents[:, :1]
        return group, chosen, states, latents


def _weight(references: int, tokens: int) -> float:
    return SHORT_WEIGHT if references == 0 and tokens <= SHORT_TOKENS else 1.0


def encode_pool(folder: Path) -> tuple[dict[tuple[int, int], Group], Tensor]:
    """Encode the pool's missing shards. Returns its groups and the states (T, Dt) of the empty request."""
    processor = Processor(checkpoint.CHECKPOINT)
    mllm = load_mllm(checkpoint.CHECKPOINT)
    vae = load_vae(checkpoint.CHECKPOINT)
    for number in range(SHARDS):
        print(pool.write_shard(folder, number, processor, mllm, vae), flush=True)
    with torch.no_grad():
        return pool.load(folder), pool.encode_empty_request(processor, mllm)
