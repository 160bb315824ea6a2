"""Trains the vision encoder alone: a probe predicts the thing and the background that each image token shows.

Answers to questions are a weak signal for an untrained vision encoder, so it learns shapes slowly from them. The probe is
discarded afterwards.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reference.vision import VisionBlock, VisionEncoder
from . import checkpoint
from .corpus import Corpus, encode_images, picture_patches
from .episodes import Encoder
from .labels import LABEL_CLASSES
from .loop import Options, Schedule, Training, compile_blocks
from .shards import read_by_size, wait_for_shards

BATCH = 96
SCHEDULE = Schedule(learning_rate=1.5e-3, averaging=0.998, with_muon=True)


class VisionEncoderWithProbe(nn.Module):
    """The vision encoder with a probe for the labels of its tokens."""

    def __init__(self, visual: VisionEncoder) -> None:
        super().__init__()
        self.visual = visual
        self.probe = build_probe(visual)


def build_probe(visual: VisionEncoder) -> nn.Linear:
    """A linear layer from image features to the logits of all labels."""
    return nn.Linear(visual.config.out_hidden_size, sum(LABEL_CLASSES))


def probe_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, float]]:
    """The loss, and the share of things with the right shape and relation, and of those with the right quality.

    logits: (N, tokens, sum(LABEL_CLASSES)); labels: (N, tokens, 7).
    """
    parts = torch.split(logits.flatten(0, 1).float(), list(LABEL_CLASSES), dim=-1)
    targets = labels.flatten(0, 1).unbind(-1)
    loss = torch.stack([F.cross_entropy(part, target) for part, target in zip(parts, targets, strict=True)]).sum()
    has_thing = (targets[1] > 0).float()
    is_right = (parts[1].argmax(-1) == targets[1]) & (parts[4].argmax(-1) == targets[4])
    quality = (parts[5].argmax(-1) == targets[5]).float()
    things = has_thing.sum().clamp(min=1)
    return loss, {
        "probe_accuracy": float((is_right * has_thing).sum() / things),
        "probe_quality": float((quality * has_thing).sum() / things),
    }


def train(options: Options) -> None:
    """Run one session. Writes the weights of the whole MLLM, of which only the vision encoder has changed."""
    torch.manual_seed(0)
    encoder = Encoder(options.checkpoint)
    mllm = checkpoint.load_or_build("mllm", checkpoint.initialize_mllm, options.checkpoint).to(options.device)
    model = VisionEncoderWithProbe(mllm.visual).to(options.device)
    compile_blocks(model, VisionBlock)
    training = Training(model, SCHEDULE, options.work / "vision_encoder.pt", options.rate)
    wait_for_shards(options.episodes, options.shards)
    corpora = [Corpus(shards, encoder, options.device) for shards in read_by_size(options.episodes, options.shards)]
    shares = np.array([len(corpus.pictures) for corpus in corpora]) / sum(len(corpus.pictures) for corpus in corpora)
    rng = np.random.default_rng([8, training.step])

    def loss() -> tuple[Tensor, dict[str, float]]:
        corpus = corpora[int(rng.choice(len(corpora), p=shares))]
        chosen = torch.from_numpy(rng.integers(len(corpus.pictures), size=BATCH * options.scale)).to(options.device)
        patches = picture_patches(corpus.pictures[chosen], encoder.image_processor)
        features = encode_images(model.visual, patches, corpus.grid)
        return probe_loss(model.probe(features), corpus.labels[chosen].long())

    training.run(loss, options.remaining_s)
    training.load_averaged_weights()
    checkpoint.save("mllm", mllm, options.checkpoint)
