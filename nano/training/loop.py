"""The training loop that all three networks share: mixed precision, warm-up and cool-down, averaged weights, save and resume.

A sitting lasts as long as it is told; its state file lets the next one go on where it ended. Knows no network and no data.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .muon import Muon

WARM_UP_STEPS = 100
COOL_DOWN = 0.3
"""The last part of a sitting, in which the learning rate falls to a twentieth."""
SAVE_EVERY_S = 300.0
LOG_EVERY_S = 20.0
GRADIENT_NORM = 1.0
OUTER = ("embed", "norm_out", "probe", "conv_in", "decoder.conv_out")
"""Words in the names of matrices that are no inner ones."""

Loss = Callable[[], tuple[Tensor, dict[str, float]]]
"""One batch's loss and figures for the log."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """learning_rate: AdamW's; matrices under Muon take the same, its update being scaled to AdamW's size. averaging: the
    decay of the averaged weights, a step. with_bfloat16: autocast, which doesn't help convolutions on a CPU."""

    learning_rate: float
    weight_decay: float = 0.01
    averaging: float = 0.999
    with_muon: bool = False
    with_bfloat16: bool = True


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Another name to write under; the file takes its own name when it is whole. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    yield partial
    os.replace(partial, path)


def fused(network: nn.Module, *blocks: type[nn.Module]) -> None:
    """Compile the network's blocks of these kinds, for lengths of any kind; the first steps wait a minute or two for it.

    Attention is spelled out in them: on a CPU the backward pass of torch's own is several times slower at these lengths.
    """
    torch.backends.cuda.enable_flash_sdp(False)  # it is the CPU's switch too
    torch.fx.experimental._config.use_duck_shape = (
        False  # equal lengths are a coincidence here, and no reason to recompile
    )
    for module in network.modules():
        if isinstance(module, blocks):
            setattr(module, "forward", torch.compile(module.forward, dynamic=True))  # noqa: B010 (it is the class's name)


class Training:
    """A network being trained. `state_file` holds all that must outlive a stop, written whole or not at all."""

    def __init__(self, network: nn.Module, schedule: Schedule, state_file: Path) -> None:
        self.network = network
        self.schedule = schedule
        self.state_file = state_file
        state_file.parent.mkdir(parents=True, exist_ok=True)
        self.optimizers = _optimizers(network, schedule)
        self.averaged = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.step = 0
        if state_file.exists():
            self._load()

    def run(self, loss: Loss, seconds: float) -> None:
        """Train for so long. Prints a line of figures now and then and appends it to a log beside the state file."""
        started = logged = saved = time.monotonic()
        first, seen, count = self.step, defaultdict[str, list[float]](list), 0
        self.network.train()
        while (passed := time.monotonic() - started) < seconds:
            figures = self._step(loss, self._rate(self.step - first, passed / seconds))
            for name, value in figures.items():
                seen[name].append(value)
            count += 1
            if (now := time.monotonic()) - logged > LOG_EVERY_S:
                self._log(seen, count / (now - logged))
                seen, count, logged = defaultdict(list), 0, now
            if now - saved > SAVE_EVERY_S:
                self.save()
                saved = time.monotonic()
        self.save()

    def average_into_network(self) -> None:
        """Give the network its averaged weights, for use; the state file keeps what training goes on with."""
        self.network.load_state_dict(self.averaged)
        self.network.eval()

    def save(self) -> None:
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with written_whole(self.state_file) as partial:
            torch.save(state, partial)

    def _load(self) -> None:
        state = torch.load(self.state_file, weights_only=True)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.averaged = state["averaged"]
        for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(stored)

    def _step(self, loss: Loss, rate: float) -> dict[str, float]:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.schedule.learning_rate * rate
            optimizer.zero_grad(set_to_none=True)
        device = next(self.network.parameters()).device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.schedule.with_bfloat16):
            value, figures = loss()
        torch.autograd.backward(value)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        if not math.isfinite(float(norm)):
            return {"not_finite": 1.0}  # a step that would spoil the weights is left out
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        decay = min(self.schedule.averaging, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.values()), list(self.network.state_dict().values()), 1 - decay)
        return {"loss": float(value.detach()), "norm": float(norm), **figures}

    def _rate(self, steps_of_sitting: int, part: float) -> float:
        warm = min(1.0, (steps_of_sitting + 1) / WARM_UP_STEPS)
        return warm * min(1.0, max(0.05, (1 - part) / COOL_DOWN))

    def _log(self, seen: dict[str, list[float]], steps_a_second: float) -> None:
        figures: dict[str, Any] = {name: round(statistics.fmean(values), 5) for name, values in seen.items()}
        line = json.dumps({"step": self.step, "steps_a_second": round(steps_a_second, 3), **figures})
        print(line, flush=True)
        with self.state_file.with_suffix(".jsonl").open("a", encoding="utf-8") as log:
            log.write(line + "\n")


def _optimizers(network: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the inner matrices where the schedule says so, AdamW for embeddings, outputs and all else."""
    rate, decay = schedule.learning_rate, schedule.weight_decay
    named = network.named_parameters()
    inner = [p for name, p in named if schedule.with_muon and p.ndim >= 2 and not any(word in name for word in OUTER)]
    chosen = {id(p) for p in inner}
    matrices = [p for p in network.parameters() if p.ndim >= 2 and id(p) not in chosen]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.99), fused=True)
    if not inner:
        return [adam]
    return [adam, Muon(inner, lr=rate, weight_decay=decay)]
