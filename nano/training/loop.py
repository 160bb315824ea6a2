"""The training loop of all networks: mixed precision, warm-up and decay, averaged weights, save and resume.

A session has a time limit and resumes from the last one's state file. Knows no network and no data.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...runtime.files.writing import atomic_file
from .muon import Muon

WARM_UP_STEPS = 100
LAST_RATE = 0.05
"""The learning rate falls linearly over a session, to this share: at a constant one the loss stands still within an hour."""
SAVE_EVERY_S = 300.0
LOG_EVERY_S = 20.0
MAX_GRADIENT_NORM = 1.0
ADAMW_NAMES = ("embed", "norm_out", "probe", "conv_in", "decoder.conv_out")
"""Parts of the names of matrices that Muon isn't meant for: embeddings, outputs and probes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a session.

    work: the folder of states, logs and shards.
    checkpoint: the checkpoint to train.
    seconds: the time of the session from `started` on, reading data included; writing weights comes on top.
    scale: a factor of all batch sizes; a GPU is busy from about 8 on.
    shards: the shards of episodes to read.
    rate: a factor of all learning rates; below 1 where good weights are trained further in small batches.
    keep_latents: only the autoencoder's decoder is trained.
    """

    work: Path
    checkpoint: Path
    seconds: float
    device: torch.device
    scale: int = 1
    shards: int = 8
    rate: float = 1.0
    keep_latents: bool = False
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def remaining_s(self) -> float:
        """The seconds of the session that are left."""
        return self.seconds - (time.monotonic() - self.started)

    @property
    def episodes(self) -> Path:
        """The folder of the shards."""
        return self.work / "episodes"


LossFunction = Callable[[], tuple[Tensor, dict[str, float]]]
"""Returns a batch's loss and its metrics for the log."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The optimizer settings of a part.

    learning_rate: of AdamW and of Muon, whose update is scaled to AdamW's size.
    averaging: the decay of the averaged weights per step.
    with_muon: Muon updates the inner matrices.
    with_bfloat16: autocast, which doesn't speed up convolutions on a CPU.
    """

    learning_rate: float
    weight_decay: float = 0.01
    averaging: float = 0.999
    with_muon: bool = False
    with_bfloat16: bool = True


def compile_blocks(network: nn.Module, *blocks: type[nn.Module], on_cpu: bool = False) -> None:
    """Compile the network's blocks of these types with dynamic shapes, which takes a minute or two in the first steps.

    Where the compiler fails, the blocks run as they are. on_cpu: compile them on a CPU too, which pays where batches are full.
    Attention runs there as plain matrix products: the backward pass of torch's fused kernel is slower.
    """
    if next(network.parameters()).device.type == "cpu":
        torch.backends.cuda.enable_flash_sdp(False)  # also disables the CPU's kernel
        if not on_cpu:
            return
    torch.set_float32_matmul_precision("high")
    torch._dynamo.config.suppress_errors = True
    torch._dynamo.config.recompile_limit = 32
    torch.fx.experimental._config.use_duck_shape = False  # lengths that happen to be equal must not cause a recompile
    for module in network.modules():
        if isinstance(module, blocks):
            setattr(module, "forward", torch.compile(module.forward, dynamic=True))  # noqa: B010 (mypy rejects the assignment)


class Training:
    """A network in training. `state_file` holds the whole state, written atomically."""

    def __init__(self, network: nn.Module, schedule: Schedule, state_file: Path, rate: float = 1.0) -> None:
        self.network = network
        self.schedule = replace(schedule, learning_rate=rate * schedule.learning_rate)
        self.state_file = state_file
        state_file.parent.mkdir(parents=True, exist_ok=True)
        self.optimizers = _optimizers(network, self.schedule)
        self.averaged = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.step = 0
        if state_file.exists():
            self._load()

    def run(self, loss: LossFunction, seconds: float) -> None:
        """Train for the time. Prints a line of metrics at intervals and appends it to a log beside the state file."""
        started = logged = saved = time.monotonic()
        first, metrics, count = self.step, defaultdict[str, list[float]](list), 0
        self.network.train()
        while (elapsed := time.monotonic() - started) < seconds:
            step_metrics = self._step(loss, self._rate(self.step - first, elapsed / seconds))
            for name, value in step_metrics.items():
                metrics[name].append(value)
            count += 1
            if (now := time.monotonic()) - logged > LOG_EVERY_S:
                self._log(metrics, count / (now - logged))
                metrics, count, logged = defaultdict(list), 0, now
            if now - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        self.save()

    def load_averaged_weights(self) -> None:
        """Load the averaged weights into the network, for use. The state file keeps the weights to resume from."""
        self.network.load_state_dict(self.averaged)
        self.network.eval()

    def save(self) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with atomic_file(self.state_file) as file:
            torch.save(state, file)

    def _load(self) -> None:
        device = next(self.network.parameters()).device
        state = torch.load(self.state_file, weights_only=True, map_location=device)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.averaged = state["averaged"]
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)

    def _step(self, loss: LossFunction, rate: float) -> dict[str, float]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.learning_rate * rate
            optimizer.zero_grad(set_to_none=True)
        device = next(self.network.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.schedule.with_bfloat16):
            value, metrics = loss()
        torch.autograd.backward(value)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), MAX_GRADIENT_NORM)
        if not math.isfinite(float(norm)):
            return {"not_finite": 1.0}  # skips the step, which would destroy the weights
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(self.schedule.averaging, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.values()), list(self.network.state_dict().values()), 1 - decay)
        return {"loss": float(value.detach()), "norm": float(norm), **metrics}

    def _rate(self, steps: int, share: float) -> float:
        warm_up = min(1.0, (steps + 1) / WARM_UP_STEPS)
        return warm_up * max(LAST_RATE, 1 - share)

    def _log(self, metrics: dict[str, list[float]], steps_per_second: float) -> None:
        means: dict[str, Any] = {name: round(statistics.fmean(values), 5) for name, values in metrics.items()}
        line = json.dumps({"step": self.step, "steps_a_second": round(steps_per_second, 3), **means})
        print(line, flush=True)
        with self.state_file.with_suffix(".jsonl").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def _optimizers(network: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices if the schedule uses it, AdamW for everything else."""
    rate, decay = schedule.learning_rate, schedule.weight_decay
    named = network.named_parameters()
    inner = [
        p for name, p in named if schedule.with_muon and p.ndim >= 2 and not any(word in name for word in ADAMW_NAMES)
    ]
    inner_ids = {id(p) for p in inner}
    matrices = [p for p in network.parameters() if p.ndim >= 2 and id(p) not in inner_ids]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.99), fused=True)
    if not inner:
        return [adam]
    return [adam, Muon(inner, lr=rate, weight_decay=decay)]
