"""Trains the MLLM on episodes: next-token prediction of answers and, with a small weight, of requests.

The transformer's condition is a request's last hidden states. With next-token prediction alone these lose the token at their own
position ("red" or "blue": a shape follows either), so auxiliary probes predict it and the previous token from them. A third probe
predicts the labels of image tokens, as in the vision encoder's own training. All probes are discarded afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reference.mllm import MLLM, TextLayer
from ...reference.vision import VisionBlock
from ..world.scenes import Sampler
from . import checkpoint, vision_encoder
from .corpus import Batch, Corpus, run_mllm
from .episodes import ANSWERS, Encoder, random_episode
from .loop import Options, Schedule, Training, compile_blocks
from .shards import has_shards, pack, read_by_size, wait_for_shards

TOKENS = 6144
"""The most tokens of a batch, padding included."""
FIRST_SHARDS, MOST_SHARDS = 3, 48
"""The shards that training starts with, and those that it goes on with once they are there."""
REQUEST_CHANCE = 0.25
"""The chance of an episode without an answer, relative to the others'."""
REQUEST_WEIGHT, PROBE_WEIGHT, IMAGE_PROBE_WEIGHT = 0.05, 0.2, 0.2
SCHEDULE = Schedule(learning_rate=2e-3, averaging=0.998, with_muon=True)
MEASURED = 1024
"""The episodes of the last measurement."""


class MLLMWithProbes(nn.Module):
    """The MLLM with probes for the current token, the previous token and the labels of image tokens."""

    def __init__(self, mllm: MLLM) -> None:
        super().__init__()
        config = mllm.language_model.config
        self.mllm = mllm
        self.token_probes = nn.ModuleList(nn.Linear(config.hidden_size, config.vocab_size) for _ in range(2))
        self.image_probe = vision_encoder.build_probe(mllm.visual)


def losses(model: MLLMWithProbes, batch: Batch, corpus: Corpus) -> tuple[Tensor, Tensor, Tensor, dict[str, float]]:
    """The loss; the indices (n) of the batch's answers; whether all tokens of each are the most likely ones; metrics."""
    encoder = corpus.encoder
    hidden, features = run_mllm(model.mllm, batch, encoder)
    text_mask = batch.attention_mask & (batch.ids != encoder.image_token)
    predicted = text_mask[:, 1:]
    targets, numbers = batch.ids[:, 1:][predicted], batch.answers[:, 1:][predicted]
    is_answer = numbers >= 0
    logits = model.mllm.language_model.lm_head(hidden[:, :-1][predicted]).float()
    errors = F.cross_entropy(logits, targets, reduction="none")
    loss = REQUEST_WEIGHT * errors[~is_answer].mean()
    if len(answered := errors[is_answer]):
        loss = loss + answered.mean()
    for back, probe in enumerate(model.token_probes):
        tokens = batch.ids[:, : batch.ids.shape[1] - back][text_mask[:, back:]]
        loss = loss + PROBE_WEIGHT * F.cross_entropy(probe(hidden[:, back:][text_mask[:, back:]]).float(), tokens)
    metrics: dict[str, float] = {}
    if features is not None:
        image_loss, metrics = vision_encoder.probe_loss(model.image_probe(features), batch.labels)
        loss = loss + IMAGE_PROBE_WEIGHT * image_loss
    answers, rows = torch.unique(numbers[is_answer], return_inverse=True)
    wrong = ((logits.argmax(-1) != targets)[is_answer]).float()
    mistakes = torch.zeros(len(answers), device=wrong.device).index_add(0, rows, wrong)
    return loss, answers, mistakes == 0, metrics


def train(options: Options) -> None:
    """Run one session. Writes the weights."""
    torch.manual_seed(0)
    encoder = Encoder(options.checkpoint)
    model = MLLMWithProbes(checkpoint.load_or_build("mllm", checkpoint.initialize_mllm, options.checkpoint))
    checkpoint.initialize_mllm(model.token_probes)
    model.to(options.device)
    compile_blocks(model, TextLayer, VisionBlock)
    training = Training(model, SCHEDULE, options.work / "mllm.pt", options.rate)
    batches = growing_batches(options, encoder, np.random.default_rng([4, training.step]))

    def loss() -> tuple[Tensor, dict[str, float]]:
        corpus, batch = next(batches)
        value, answers, is_right, metrics = losses(model, batch, corpus)
        return value, metrics | accuracies(corpus.answer_kinds[answers], is_right)

    training.run(loss, options.remaining_s)
    training.load_averaged_weights()
    measure(model, encoder, options.device)
    checkpoint.save("mllm", model.mllm, options.checkpoint)


def growing_batches(options: Options, encoder: Encoder, rng: np.random.Generator) -> Iterator[tuple[Corpus, Batch]]:
    """Endless batches of the shards that are there at first, then of all, each with its corpus."""
    most = min(options.shards, MOST_SHARDS)
    for count in sorted({min(FIRST_SHARDS, most), most}):
        wait_for_shards(options.episodes, count)
        corpora = [Corpus(shards, encoder, options.device) for shards in read_by_size(options.episodes, count)]
        chances = [np.where(corpus.has_answer, 1.0, REQUEST_CHANCE) for corpus in corpora]
        tokens = np.array([float((corpus.lengths * chance).sum()) for corpus, chance in zip(corpora, chances, strict=True)])
        streams = [
            corpus.random_batches(rng, TOKENS * options.scale, chance)
            for corpus, chance in zip(corpora, chances, strict=True)
        ]
        while count == most or not has_shards(options.episodes, most):
            k = int(rng.choice(len(corpora), p=tokens / tokens.sum()))
            yield corpora[k], next(streams[k])


def accuracies(kinds: Tensor, is_right: Tensor) -> dict[str, float]:
    """The share of right answers of each kind that occurs. kinds, is_right: (n)."""
    all_of, right = (torch.bincount(part, minlength=len(ANSWERS)).tolist() for part in (kinds, kinds[is_right]))
    return {name: right[k] / all_of[k] for k, name in enumerate(ANSWERS) if all_of[k]}


@torch.no_grad()
def measure(model: MLLMWithProbes, encoder: Encoder, device: torch.device, episodes: int = MEASURED) -> None:
    """Print the share of right answers in new episodes, by kind."""
    sampler = Sampler(np.random.SeedSequence(5))
    shard = pack([random_episode(encoder, sampler) for _ in range(episodes)], encoder)
    corpus = Corpus([(shard, shard.pictures)], encoder, device)
    kinds, results = list[Tensor](), list[Tensor]()
    for rows in corpus.cut(np.flatnonzero(corpus.has_answer), TOKENS):
        _, answers, is_right, _ = losses(model, corpus.batch(rows), corpus)
        kinds.append(corpus.answer_kinds[answers])
        results.append(is_right)
    for name, share in accuracies(torch.cat(kinds), torch.cat(results)).items():
        print(f"{name:12} {share:7.1%}", flush=True)
