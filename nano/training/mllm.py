"""Trains the language model and its eyes on questions about scenes: next tokens of answers, and a little of requests too.

The transformer reads the last hidden states of a request. Next-token prediction alone lets these forget the word they stand on
("red" or "blue": a shape follows either), so a probe that is thrown away afterwards must find it, and the word before, in them.
The eyes, which were trained alone before, go on telling what they see to their own probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...reference.mllm import MLLM, TextLayer
from ...reference.vision import VisionBlock
from ..talking_tasks import TalkingTask, decide, look, reflect, relate
from ..world import Sampler, Scene
from . import checkpoint, sight
from .conversations import Batch, Reader
from .conversations import look as see
from .loop import Schedule, Training, fused

BATCH = 64
QUESTIONS = 20_000
"""Rendered anew for every sitting."""
ALIKE = 8
"""Batches that are drawn together and share out their questions by length, so that little is padded."""
UNEVEN, BLUR_PX = 0.03, 0.9
"""How far what is right may be from what was rendered."""
REQUEST_WEIGHT, PROBE_WEIGHT, SIGHT_WEIGHT = 0.05, 0.2, 0.2
SCHEDULE = Schedule(learning_rate=1e-3, averaging=0.998, with_muon=True)


class Pupil(nn.Module):
    """The MLLM, and the probes: for the present and the previous token, and for what image tokens show."""

    def __init__(self, mllm: MLLM) -> None:
        super().__init__()
        config = mllm.language_model.config
        self.mllm = mllm
        self.probe = nn.ModuleList(nn.Linear(config.hidden_size, config.vocab_size) for _ in range(2))
        self.sight_probe = sight.probe(mllm.visual)


class Questions:
    """A sitting's questions with their pictures, rendered once."""

    def __init__(self, reader: Reader, seed: np.random.SeedSequence, count: int) -> None:
        sampler = Sampler(seed)
        self.tasks = [some_question(sampler) for _ in range(count)]
        self.turns = [reader.turn(task.question, len(task.inputs), task.answer) for task in self.tasks]
        counts = np.array([len(task.inputs) for task in self.tasks])
        self.first = np.cumsum(counts) - counts
        self.lengths = np.array([len(turn.ids) for turn in self.turns])
        scenes = [scene for task in self.tasks for scene in task.inputs]
        self.pixels: NDArray[np.uint8] = np.stack([reader.pixels(*as_drawn(scene, sampler)) for scene in scenes])
        self.shown: NDArray[np.int64] = np.stack([sight.shown(scene, reader.tokens_a_side) for scene in scenes])

    def take(self, chosen: NDArray[np.int64], reader: Reader) -> tuple[list[TalkingTask], Batch, Tensor]:
        """The questions, and what each image token of their pictures shows."""
        tasks = [self.tasks[k] for k in chosen]
        pictures = [self.first[k] + n for k, task in zip(chosen, tasks, strict=True) for n in range(len(task.inputs))]
        batch = reader.batch([self.turns[k] for k in chosen], self.pixels[pictures])
        return tasks, batch, torch.from_numpy(self.shown[pictures])

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[NDArray[np.int64]]:
        """Numbers of questions, batch after batch without end; those of a batch are of similar length."""
        while True:
            drawn = rng.integers(len(self.tasks), size=size * ALIKE)
            ordered = drawn[self.lengths[drawn].argsort(kind="stable")].reshape(ALIKE, size)
            yield from rng.permutation(ordered)


def as_drawn(scene: Scene, sampler: Sampler) -> tuple[Scene, float]:
    """The scene as a model may draw it, which is right too, and the pixels to blur it by: nothing, half of the time."""
    if sampler.chance(0.5):
        return scene, 0.0
    things = (thing if thing.dents else replace(thing, dents=sampler.dents(UNEVEN, 0.0)) for thing in scene.things)
    return replace(scene, things=tuple(things)), float(sampler.rng.uniform(0, BLUR_PX))


def some_question(sampler: Sampler) -> TalkingTask:
    """Mostly reflecting, for what is badly drawn is the hardest to see, then relations; sometimes deciding."""
    share = sampler.rng.random()
    return (relate if share < 0.15 else look if share < 0.3 else reflect if share < 0.9 else decide)(sampler)


def read(mllm: MLLM, batch: Batch, reader: Reader) -> tuple[Tensor, Tensor | None]:
    """The last hidden states of every token, (B, T, Dt), and the pictures' image tokens, (N, tokens, Dt), if there are any."""
    model, seen = mllm.language_model, None
    embeds = model.embed_tokens(batch.ids)
    if len(batch.patches):
        seen = see(mllm.visual, batch.patches, reader.grid)
        places = (batch.ids == reader.image_token).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(places, seen.to(embeds.dtype))
    mask = torch.ones(batch.ids.shape[1], batch.ids.shape[1], dtype=torch.bool).tril()[None, None]
    hidden: Tensor
    hidden, _, _ = model(embeds, batch.cos, batch.sin, mask, *model.empty_cache(len(batch.ids)))
    return hidden, seen


def losses(pupil: Pupil, batch: Batch, shown: Tensor, reader: Reader) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The loss; for each row whether every token of its answer is the likeliest one; figures. shown: see `sight.shown`."""
    hidden, seen = read(pupil.mllm, batch, reader)
    words = batch.written & (batch.ids != reader.image_token)
    said = words[:, 1:]
    wanted, answered = batch.ids[:, 1:][said], batch.answered[:, 1:][said]
    logits = pupil.mllm.language_model.lm_head(hidden[:, :-1][said]).float()
    each = F.cross_entropy(logits, wanted, reduction="none")
    loss = each[answered].mean() + REQUEST_WEIGHT * each[~answered].mean()
    for back, probe in enumerate(pupil.probe):
        known = batch.ids[:, : batch.ids.shape[1] - back][words[:, back:]]
        loss = loss + PROBE_WEIGHT * F.cross_entropy(probe(hidden[:, back:][words[:, back:]]).float(), known)
    figures: dict[str, float] = {}
    if seen is not None:
        sighted, figures = sight.sight_loss(pupil.sight_probe(seen), shown)
        loss = loss + SIGHT_WEIGHT * sighted
    row = torch.arange(len(words)).unsqueeze(1).expand_as(said)[said]
    mistaken = torch.zeros(len(words)).index_add(0, row, ((logits.argmax(-1) != wanted) & answered).float())
    return loss, mistaken == 0, figures


def train(work: Path, seconds: float) -> None:
    """One sitting; writes the weights."""
    torch.manual_seed(0)
    reader = Reader(checkpoint.CHECKPOINT)
    pupil = Pupil(checkpoint.started("mllm", checkpoint.initialize_mllm))
    checkpoint.initialize_mllm(pupil.probe)
    fused(pupil, TextLayer, VisionBlock)
    training = Training(pupil, SCHEDULE, work / "mllm.pt")
    questions = Questions(reader, np.random.SeedSequence([3, training.step]), QUESTIONS)
    batches = questions.batches(np.random.default_rng([4, training.step]), BATCH)

    def loss() -> tuple[Tensor, dict[str, float]]:
        tasks, batch, shown = questions.take(next(batches), reader)
        value, right, figures = losses(pupil, batch, shown, reader)
        kinds = {
            ability: [bool(r) for r, t in zip(right, tasks, strict=True) if t.ability == ability]
            for ability in ABILITIES
        }
        return value, figures | {ability: sum(found) / len(found) for ability, found in kinds.items() if found}

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
        tasks, batch, shown = questions.take(chosen, reader)
        _, right, _ = losses(pupil, batch, shown, reader)
        for task, is_right in zip(tasks, right, strict=True):
            found.setdefault(f"{task.ability}: {task.kind}", []).append(bool(is_right))
    for kind, results in sorted(found.items()):
        print(f"{kind:30} {sum(results) / len(results):7.1%} of {len(results)}", flush=True)
