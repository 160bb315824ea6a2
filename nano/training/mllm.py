"""Trains the MLLM on questions about scenes: next-token prediction of answers and, with a small weight, of requests.

The transformer's condition is a request's last hidden states. With next-token prediction alone these lose the token at their own
position ("red" or "blue": a shape follows either), so auxiliary probes predict it and the previous token from them. A third probe
predicts the labels of image tokens, as in the vision encoder's own training. All probes are discarded afterwards.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
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
from ..chat_tasks import ChatTask, answer_question, answer_relation_question, decide, reflect
from ..world import Sampler, Scene
from . import checkpoint, vision_encoder
from .conversations import Batch, Processor, encode_images
from .loop import Schedule, Training, compile_blocks

BATCH = 64
QUESTIONS = 20_000
"""Questions of a session."""
BATCHES_PER_BUCKET = 8
"""Batches that are drawn together and sorted by length, to reduce padding."""
AUGMENT_DENTS, AUGMENT_BLUR_PX = 0.03, 0.9
"""Augmentation of right pictures: the standard deviation of dents and the largest blur."""
REQUEST_WEIGHT, PROBE_WEIGHT, IMAGE_PROBE_WEIGHT = 0.05, 0.2, 0.2
SCHEDULE = Schedule(learning_rate=1e-3, averaging=0.998, with_muon=True)


class MLLMWithProbes(nn.Module):
    """The MLLM with probes for the current token, the previous token and the labels of image tokens."""

    def __init__(self, mllm: MLLM) -> None:
        super().__init__()
        config = mllm.language_model.config
        self.mllm = mllm
        self.token_probes = nn.ModuleList(nn.Linear(config.hidden_size, config.vocab_size) for _ in range(2))
        self.image_probe = vision_encoder.build_probe(mllm.visual)


class Questions:
    """A session's questions with their rendered pictures."""

    def __init__(self, processor: Processor, seed: np.random.SeedSequence, count: int) -> None:
        sampler = Sampler(seed)
        self.tasks = [random_question(sampler) for _ in range(count)]
        self.turns = [processor.encode_turn(task.question, len(task.inputs), task.answer) for task in self.tasks]
        counts = np.array([len(task.inputs) for task in self.tasks])
        self.first = np.cumsum(counts) - counts
        self.lengths = np.array([len(turn.ids) for turn in self.turns])
        scenes = [scene for task in self.tasks for scene in task.inputs]
        self.pixels: NDArray[np.uint8] = np.stack(
            [processor.render_pixels(*augment(scene, sampler)) for scene in scenes]
        )
        self.labels: NDArray[np.int64] = np.stack(
            [vision_encoder.token_labels(scene, processor.tokens_per_side) for scene in scenes]
        )

    def take(self, chosen: NDArray[np.int64], processor: Processor) -> tuple[list[ChatTask], Batch, Tensor]:
        """The chosen tasks, their batch, and the labels of their pictures' image tokens."""
        tasks = [self.tasks[k] for k in chosen]
        pictures = [self.first[k] + n for k, task in zip(chosen, tasks, strict=True) for n in range(len(task.inputs))]
        batch = processor.collate([self.turns[k] for k in chosen], self.pixels[pictures])
        return tasks, batch, torch.from_numpy(self.labels[pictures])

    def batches(self, rng: np.random.Generator, size: int) -> Iterator[NDArray[np.int64]]:
        """Endless batches of indices of questions of similar length."""
        while True:
            indices = rng.integers(len(self.tasks), size=size * BATCHES_PER_BUCKET)
            by_length = indices[self.lengths[indices].argsort(kind="stable")].reshape(BATCHES_PER_BUCKET, size)
            yield from rng.permutation(by_length)


def augment(scene: Scene, sampler: Sampler) -> tuple[Scene, float]:
    """The scene with the small flaws of a right drawing, and a blur in pixels; unchanged with a chance of one half."""
    if sampler.chance(0.5):
        return scene, 0.0
    things = (
        thing if thing.dents else replace(thing, dents=sampler.dents(AUGMENT_DENTS, 0.0)) for thing in scene.things
    )
    return replace(scene, things=tuple(things)), float(sampler.rng.uniform(0, AUGMENT_BLUR_PX))


def random_question(sampler: Sampler) -> ChatTask:
    """A random question: mostly reflection, because bad drawing is the hardest to recognize."""
    share = sampler.rng.random()
    if share < 0.3:
        return (answer_relation_question if share < 0.15 else answer_question)(sampler)
    return (reflect if share < 0.9 else decide)(sampler)


def run_mllm(mllm: MLLM, batch: Batch, processor: Processor) -> tuple[Tensor, Tensor | None]:
    """The last hidden states of every token (B, T, Dt), and the image features (N, tokens, Dt) or None without pictures."""
    model, features = mllm.language_model, None
    embeds = model.embed_tokens(batch.ids)
    if len(batch.patches):
        features = encode_images(mllm.visual, batch.patches, processor.grid)
        image_mask = (batch.ids == processor.image_token).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(image_mask, features.to(embeds.dtype))
    mask = torch.ones(batch.ids.shape[1], batch.ids.shape[1], dtype=torch.bool).tril()[None, None]
    hidden: Tensor
    hidden, _, _ = model(embeds, batch.cos, batch.sin, mask, *model.empty_cache(len(batch.ids)))
    return hidden, features


def losses(
    model: MLLMWithProbes, batch: Batch, labels: Tensor, processor: Processor
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The loss; for each row whether every token of its answer is the most likely one; metrics. labels: see `token_labels`."""
    hidden, features = run_mllm(model.mllm, batch, processor)
    text_mask = batch.attention_mask & (batch.ids != processor.image_token)
    predicted = text_mask[:, 1:]
    targets, is_answer = batch.ids[:, 1:][predicted], batch.answer_mask[:, 1:][predicted]
    logits = model.mllm.language_model.lm_head(hidden[:, :-1][predicted]).float()
    errors = F.cross_entropy(logits, targets, reduction="none")
    loss = errors[is_answer].mean() + REQUEST_WEIGHT * errors[~is_answer].mean()
    for back, probe in enumerate(model.token_probes):
        tokens = batch.ids[:, : batch.ids.shape[1] - back][text_mask[:, back:]]
        loss = loss + PROBE_WEIGHT * F.cross_entropy(probe(hidden[:, back:][text_mask[:, back:]]).float(), tokens)
    metrics: dict[str, float] = {}
    if features is not None:
        image_loss, metrics = vision_encoder.probe_loss(model.image_probe(features), labels)
        loss = loss + IMAGE_PROBE_WEIGHT * image_loss
    row = torch.arange(len(text_mask)).unsqueeze(1).expand_as(predicted)[predicted]
    mistakes = torch.zeros(len(text_mask)).index_add(0, row, ((logits.argmax(-1) != targets) & is_answer).float())
    return loss, mistakes == 0, metrics


def train(work: Path, seconds: float) -> None:
    """Run one session. Writes the weights."""
    torch.manual_seed(0)
    processor = Processor(checkpoint.CHECKPOINT)
    model = MLLMWithProbes(checkpoint.load_or_build("mllm", checkpoint.initialize_mllm))
    checkpoint.initialize_mllm(model.token_probes)
    compile_blocks(model, TextLayer, VisionBlock)
    training = Training(model, SCHEDULE, work / "mllm.pt")
    questions = Questions(processor, np.random.SeedSequence([3, training.step]), QUESTIONS)
    batches = questions.batches(np.random.default_rng([4, training.step]), BATCH)

    def loss() -> tuple[Tensor, dict[str, float]]:
        tasks, batch, labels = questions.take(next(batches), processor)
        value, is_right, metrics = losses(model, batch, labels, processor)
        by_ability = defaultdict[str, list[bool]](list)
        for task, right in zip(tasks, is_right, strict=True):
            by_ability[task.ability].append(bool(right))
        return value, metrics | {ability: statistics.fmean(results) for ability, results in by_ability.items()}

    training.run(loss, seconds)
    training.load_averaged_weights()
    measure(model, processor)
    checkpoint.save("mllm", model.mllm)


@torch.no_grad()
def measure(model: MLLMWithProbes, processor: Processor, count: int = 1024) -> None:
    """Print the share of right answers to new questions, by kind."""
    questions = Questions(processor, np.random.SeedSequence(5), count)
    by_kind = defaultdict[str, list[bool]](list)
    for chosen in np.arange(count).reshape(-1, 64):
        tasks, batch, labels = questions.take(chosen, processor)
        _, is_right, _ = losses(model, batch, labels, processor)
        for task, right in zip(tasks, is_right, strict=True):
            by_kind[f"{task.ability}: {task.kind}"].append(bool(right))
    for kind, results in sorted(by_kind.items()):
        print(f"{kind:30} {sum(results) / len(results):7.1%} of {len(results)}", flush=True)
