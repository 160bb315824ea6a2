"""Trains the language model and its eyes on questions about scenes: next tokens of answers, and a little of requests too.

The transformer reads the last hidden states of a request. Next-token prediction alone lets these forget the word they stand on
("red" or "blue": a shape follows either), so a probe that is thrown away afterwards must find it, and the word before, in them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...reference.mllm import MLLM
from ..talking_tasks import TalkingTask, decide, look, reflect
from ..world import Sampler
from . import checkpoint, conversations
from .conversations import Batch, Reader, Turn
from .loop import Schedule, Training

BATCH = 64
QUESTIONS = 24_000
"""Rendered anew for every sitting."""
REQUEST_WEIGHT, PROBE_WEIGHT = 0.05, 0.2
SCHEDULE = Schedule(learning_rate=1e-3, averaging=0.998, with_muon=True)


class Pupil(nn.Module):
    """The MLLM, and the probe for the present and the previous token."""

    def __init__(self, mllm: MLLM) -> None:
        super().__init__()
        config = mllm.language_model.config
        self.mllm = mllm
        self.probe = nn.ModuleList(nn.Linear(config.hidden_size, config.vocab_size) for _ in range(2))


class Questions:
    """A sitting's questions with their pictures, rendered once."""

    def __init__(self, reader: Reader, seed: np.random.SeedSequence, count: int) -> None:
        sampler = Sampler(seed)
        self.tasks = [some_question(sampler) for _ in range(count)]
        self.turns = [reader.turn(task.question, len(task.inputs), task.answer) for task in self.tasks]
        counts = np.array([len(task.inputs) for task in self.tasks])
        self.first = np.cumsum(counts) - counts
        self.pixels: NDArray[np.uint8] = np.stack(
            [reader.pixels(scene) for task in self.tasks for scene in task.inputs]
        )

    def take(self, chosen: NDArray[np.int64]) -> tuple[list[TalkingTask], list[Turn], NDArray[np.uint8]]:
        tasks = [self.tasks[k] for k in chosen]
        pictures = [self.first[k] + n for k, task in zip(chosen, tasks, strict=True) for n in range(len(task.inputs))]
        return tasks, [self.turns[k] for k in chosen], self.pixels[pictures]


def some_question(sampler: Sampler) -> TalkingTask:
    """Looking most of the time, then reflecting, then deciding."""
    share = sampler.rng.random()
    return (look if share < 0.45 else reflect if share < 0.8 else decide)(sampler)


def read(mllm: MLLM, batch: Batch, reader: Reader) -> Tensor:
    """The last hidden states of every token, (B, T, Dt)."""
    model = mllm.language_model
    embeds = model.embed_tokens(batch.ids)
    if len(batch.patches):
        seen = conversations.look(mllm.visual, batch.patches, reader.grid, mllm.visual.config.window_size)
        places = (batch.ids == reader.image_token).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(places, seen.to(embeds.dtype))
    mask = torch.ones(batch.ids.shape[1], batch.ids.shape[1], dtype=torch.bool).tril()[None, None]
    hidden: Tensor
    hidden, _, _ = model(embeds, batch.cos, batch.sin, mask, *model.empty_cache(len(batch.ids)))
    return hidden


def losses(pupil: Pupil, batch: Batch, reader: Reader) -> tuple[Tensor, Tensor]:
    """The loss, and for each row whether every token of its answer is the likeliest one."""
    hidden = read(pupil.mllm, batch, reader)
    wanted, answered = batch.ids[:, 1:], batch.answered[:, 1:]
    logits = pupil.mllm.language_model.lm_head(hidden[:, :-1]).float()
    each = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").reshape(wanted.shape)
    asked = batch.written[:, 1:] & ~answered & (wanted != reader.image_token)
    words = batch.written & (batch.ids != reader.image_token)
    probed = sum(
        F.cross_entropy(
            probe(hidden[:, back:][words[:, back:]]).float(), batch.ids[:, : batch.ids.shape[1] - back][words[:, back:]]
        )
        for back, probe in enumerate(pupil.probe)
    )
    loss = each[answered].mean() + REQUEST_WEIGHT * each[asked].mean() + PROBE_WEIGHT * probed
    right = ((logits.argmax(-1) == wanted) | ~answered).all(dim=1)
    return loss, right


def train(work: Path, seconds: float) -> None:
    """One sitting; writes the weights."""
    torch.manual_seed(0)
    reader = Reader(checkpoint.CHECKPOINT)
    pupil = Pupil(checkpoint.started("mllm", initialize))
    initialize(pupil.probe)
    training = Training(pupil, SCHEDULE, work / "mllm.pt")
    questions = Questions(reader, np.random.SeedSequence([3, training.step]), QUESTIONS)
    rng = np.random.default_rng([4, training.step])

    def batch_of(chosen: NDArray[np.int64]) -> tuple[list[TalkingTask], Batch]:
        tasks, turns, pixels = questions.take(chosen)
        return tasks, reader.batch(turns, pixels)

    def loss() -> tuple[Tensor, dict[str, float]]:
        tasks, batch = batch_of(rng.integers(len(questions.tasks), size=BATCH))
        value, right = losses(pupil, batch, reader)
        kinds = {
            ability: [bool(r) for r, t in zip(right, tasks, strict=True) if t.ability == ability]
            for ability in ABILITIES
        }
        return value, {ability: sum(found) / len(found) for ability, found in kinds.items() if found}

    training.run(loss, seconds)
    training.average_into_network()
    measure(pupil, reader)
    checkpoint.save("mllm", pupil.mllm)


ABILITIES = ("look", "decide", "reflect")


@torch.no_grad()
def measure(pupil: Pupil, reader: Reader, count: int = 1024) -> None:
    """Print how many of new questions are answered right, by kind."""
    questions = Questions(reader, np.random.SeedSequence(5), count)
    found: dict[str, list[bool]] = {}
    for chosen in np.arange(count).reshape(-1, 64):
        tasks, turns, pixels = questions.take(chosen)
        batch = reader.batch(turns, pixels)
        _, right = losses(pupil, batch, reader)
        for task, is_right in zip(tasks, right, strict=True):
            found.setdefault(f"{task.ability}: {task.kind}", []).append(bool(is_right))
    for kind, results in sorted(found.items()):
        print(f"{kind:30} {sum(results) / len(results):7.1%} of {len(results)}", flush=True)


def initialize(network: nn.Module) -> None:
    """Normal weights as Qwen's, the embedding small enough for the tied head."""
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            width = parameter[0].numel()
            nn.init.normal_(parameter, std=0.05 if "embed_tokens" in name else width**-0.5)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
