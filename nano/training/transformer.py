"""Trains the transformer by flow matching on encoded tasks: a straight line from noise (t = 0) to the latents (t = 1).

For guidance (the paper's three branches), random batches drop their request, or their request and references. The trained
language model that encodes requests is frozen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...reference.transformer import Transformer, initialize
from ...reference.transformer_blocks import ModulatedBlock, PlainBlock
from ...reference.weights import load_mllm, load_vae
from . import checkpoint, vision_encoder
from .episodes import Encoder
from .labels import LABEL_CLASSES
from .loop import Options, Schedule, Training, compile_blocks
from .pool import Pool, encode_empty_requests, encode_shards
from .shards import read_shards, to_device, wait_for_shards

BATCH = 64
BATCHES_PER_STEP = 2
"""Each from one group of the pool, so a step combines two kinds of tasks."""
DRAW_WEIGHT = 1.5
"""The weight of tasks without references: these drawings are the hardest to learn."""
DROP_REQUEST, DROP_ALL = 0.08, 0.04
CHAT_EMPTY = 0.3
"""The share of dropped requests that are empty in the chat template, as a conversation's are."""
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
        self.probe = nn.Linear(network.config.hidden_size, sum(LABEL_CLASSES) + 3)
        nn.init.zeros_(self.probe.weight)  # a random one's large error would disturb trained layers
        self.hidden = torch.empty(0)
        network.layers[PROBE_LAYER].register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, layer: nn.Module, inputs: tuple[Tensor, ...], hidden: Tensor) -> None:
        self.hidden = hidden

    def probe_loss(self, labels: Tensor, offsets: Tensor) -> Tensor:
        """The probe's loss on the network's last batch. labels: (B, L, 7) int64; offsets: (B, L, 3) float32."""
        outputs = self.probe(self.hidden[:, -labels.shape[1] :]).float()
        label_loss, _ = vision_encoder.probe_loss(outputs[..., :-3], labels)
        has_thing = labels[..., 1:2] > 0
        loss: Tensor = label_loss + ((outputs[..., -3:] - offsets) * has_thing).square().sum() / has_thing.sum()
        return loss


def train(options: Options) -> None:
    """Run one session. Writes the averaged weights."""
    torch.manual_seed(0)
    model = TransformerWithProbe(checkpoint.load_or_build("transformer", initialize, options.checkpoint)).to(options.device)
    compile_blocks(model, ModulatedBlock, PlainBlock, on_cpu=True)
    training = Training(model, SCHEDULE, options.work / "transformer.pt", options.rate)
    torch.manual_seed(training.step)
    batches = Batches(*encode(options), options.device, options.scale, np.random.default_rng([7, training.step]))
    tables: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def loss() -> tuple[Tensor, dict[str, float]]:
        total, metrics = torch.zeros((), device=options.device), dict[str, float]()
        for _ in range(BATCHES_PER_STEP):
            task = batches.take()
            references = list(task.references.unbind(1))
            layout = task.states.shape[1], len(references), *task.latents.shape[2:]
            if layout not in tables:
                tables[layout] = model.network.rope_tables(layout[0], references, task.latents)
            times = sample_times(len(task.latents), options.device)
            error = velocity_error(model.network, task.latents, references, task.states, times, tables[layout])
            probe_loss = model.probe_loss(task.labels, task.offsets)
            total = total + (error + PROBE_WEIGHT * probe_loss) / BATCHES_PER_STEP
            metrics |= {
                f"references_{len(references)}": float(error.detach()),
                "probe_loss": float(probe_loss.detach()),
            }
        return total, metrics

    training.run(loss, options.remaining_s)
    training.load_averaged_weights()
    checkpoint.save("transformer", model.network, options.checkpoint)


def sample_times(count: int, device: torch.device | None = None) -> Tensor:
    """Random times (count,) in (0, 1), stratified over the batch to reduce the variance of its loss."""
    ranks = (torch.arange(count, device=device) + torch.rand(count, device=device)) / count
    normal = torch.erfinv(ranks.clamp(1e-4, 1 - 1e-4) * 2 - 1) * 2**0.5
    return torch.sigmoid(TIME_MEAN + TIME_STD * normal)[torch.randperm(count, device=device)]


def velocity_error(
    network: Transformer,
    latents: Tensor,
    references: list[Tensor],
    states: Tensor,
    t: Tensor,
    tables: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Mean squared error of the velocity. latents, references: (B, C, h, w); states: (B, T, Dt); t: (B,); tables: of rope."""
    noise = torch.randn_like(latents)
    weight = t[:, None, None, None]
    noisy = (1 - weight) * noise + weight * latents
    velocity = network(noisy, t, states, references, tables=tables)
    return F.mse_loss(velocity.float(), latents - noise)


class Tasks(NamedTuple):
    """A batch of tasks of one layout.

    states: (B, T, Dt) float32.
    latents: (B, C, h, w) float32, the targets'.
    references: (B, r, C, h, w) float32.
    labels: (B, L, 7) int64, the targets' `token_labels`.
    offsets: (B, L, 3) float32, the targets' `token_offsets`.
    """

    states: Tensor
    latents: Tensor
    references: Tensor
    labels: Tensor
    offsets: Tensor


class Batches:
    """Draws batches from the pools' groups, in proportion to their size and weight."""

    def __init__(
        self,
        pools: list[Pool],
        empty_states: tuple[Tensor, Tensor],
        device: torch.device,
        scale: int,
        rng: np.random.Generator,
    ) -> None:
        self.groups = [(pool, group) for pool in pools for group in pool.groups.values()]
        self.empty_states = empty_states  # (T, Dt) each: with the drawing template, with the chat template
        self.device = device
        self.count = BATCH * scale
        self.rng = rng
        sizes = np.array([len(group.tokens) * (1 if group.pictures.shape[1] > 1 else DRAW_WEIGHT) for _, group in self.groups])
        self.probabilities: NDArray[np.float64] = sizes / sizes.sum()

    def take(self) -> Tasks:
        """Random tasks of one group; some batches without their request, or without request and references."""
        pool, group = self.groups[int(self.rng.choice(len(self.groups), p=self.probabilities))]
        chosen = self.rng.integers(len(group.tokens), size=self.count)
        pictures = to_device(group.pictures[chosen], self.device)
        states = pool.states[to_device(group.tokens[chosen], self.device)].float()
        latents = pool.latents[pictures].float()
        drop = self.rng.random()
        if drop < DROP_REQUEST + DROP_ALL:
            states = self.empty_states[int(self.rng.random() < CHAT_EMPTY)].expand(self.count, -1, -1)
        if drop < DROP_ALL:
            latents = latents[:, :1]
        target = pictures[:, 0]
        labels, offsets = pool.labels[target].long(), pool.offsets[target].float()
        return Tasks(states, latents[:, 0], latents[:, 1:], labels, offsets)


def encode(options: Options) -> tuple[list[Pool], tuple[Tensor, Tensor]]:
    """Encode the shards with the checkpoint's MLLM and VAE. Returns the pools and the states of the empty requests."""
    encoder = Encoder(options.checkpoint)
    mllm = load_mllm(options.checkpoint).to(options.device)
    vae = load_vae(options.checkpoint).to(options.device)
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs
    wait_for_shards(options.episodes, options.shards)
    shards = read_shards(options.episodes, options.shards)
    pools = encode_shards(shards, encoder, mllm, vae, options.device, options.scale)
    groups = [group for pool in pools for group in pool.groups.values()]
    print(f"{sum(len(group.tokens) for group in groups)} tasks in {len(groups)} groups", flush=True)
    return pools, encode_empty_requests(encoder, mllm, options.device)
