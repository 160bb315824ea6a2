"""Trains the vision encoder alone: a probe predicts the thing and the background that each image token shows.

Answers to questions are a weak signal for an untrained vision encoder, so it learns shapes slowly from them. The probe is
discarded afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ...reference.vision import VisionBlock, VisionEncoder
from ..world import (
    COLOURS,
    RADII_PX,
    RELATIONS,
    SHAPES,
    SIDE_PX,
    Sampler,
    Scene,
    Thing,
    is_badly_drawn,
    relation_between,
)
from . import checkpoint
from .conversations import Processor, encode_images
from .loop import Schedule, Training, compile_blocks
from .vae import random_scene

BATCH = 96
PICTURES = 6_000
"""Pictures of a session."""
REACH = 1.1
"""A token shows a thing if their centres are at most this many of the thing's radii, plus half the token's side, apart."""
LABEL_CLASSES = (len(COLOURS), len(SHAPES) + 1, len(COLOURS) + 1, len(RADII_PX) + 1, len(RELATIONS) + 1, 3)
"""Classes of each label of a token: the background; the thing's shape, colour, size, relation to the only other thing, and
whether it is well (1) or badly (2) drawn. Except for the background, 0 is none."""
SCHEDULE = Schedule(learning_rate=1.5e-3, averaging=0.998, with_muon=True)


def token_labels(scene: Scene, tokens_per_side: int) -> NDArray[np.int64]:
    """The labels of a picture's tokens, row by row: (tokens, 6), each below its number in LABEL_CLASSES."""
    labels = np.zeros((tokens_per_side**2, len(LABEL_CLASSES)), np.int64)
    labels[:, 0] = list(COLOURS).index(scene.background)
    for number, _, _, thing in _tokens_with_things(scene, tokens_per_side):
        kinds = SHAPES.index(thing.shape), list(COLOURS).index(thing.colour), list(RADII_PX).index(thing.size)
        labels[number, 1:4] = np.array(kinds) + 1
        labels[number, 5] = 2 if is_badly_drawn(thing) else 1
        if len(scene.things) == 2:
            (other,) = (each for each in scene.things if each is not thing)
            labels[number, 4] = RELATIONS.index(relation_between(thing, other)) + 1
    return labels


def token_offsets(scene: Scene, tokens_per_side: int) -> NDArray[np.float32]:
    """The centre (x, y) of each token's thing from the token's, and its radius, in sides of a token: (tokens, 3); 0 for none."""
    side = SIDE_PX / tokens_per_side
    offsets = np.zeros((tokens_per_side**2, 3), np.float32)
    for number, x, y, thing in _tokens_with_things(scene, tokens_per_side):
        offsets[number] = (thing.x - x) / side, (thing.y - y) / side, thing.radius / side
    return offsets


def _tokens_with_things(scene: Scene, tokens_per_side: int) -> Iterator[tuple[int, float, float, Thing]]:
    """The tokens that show a thing: index, centre x and y, thing."""
    side = SIDE_PX / tokens_per_side
    for number in range(tokens_per_side**2):
        x, y = (number % tokens_per_side + 0.5) * side, (number // tokens_per_side + 0.5) * side
        thing = min(scene.things, key=lambda each: math.hypot(each.x - x, each.y - y))
        if math.hypot(thing.x - x, thing.y - y) < REACH * thing.radius + side / 2:
            yield number, x, y, thing


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
    """The loss, and the share of things with the right shape and relation.

    logits: (N, tokens, sum(LABEL_CLASSES)); labels: (N, tokens, 6).
    """
    parts = torch.split(logits.flatten(0, 1).float(), list(LABEL_CLASSES), dim=-1)
    targets = labels.flatten(0, 1).unbind(-1)
    loss = torch.stack([F.cross_entropy(part, target) for part, target in zip(parts, targets, strict=True)]).sum()
    has_thing = targets[1] > 0
    is_right = (parts[1].argmax(-1) == targets[1]) & (parts[4].argmax(-1) == targets[4])
    return loss, {"probe_accuracy": float(is_right[has_thing].float().mean())}


def train(work: Path, seconds: float) -> None:
    """Run one session. Writes the weights of the whole MLLM, of which only the vision encoder has changed."""
    torch.manual_seed(0)
    processor = Processor(checkpoint.CHECKPOINT)
    mllm = checkpoint.load_or_build("mllm", checkpoint.initialize_mllm)
    model = VisionEncoderWithProbe(mllm.visual)
    compile_blocks(model, VisionBlock)
    training = Training(model, SCHEDULE, work / "vision_encoder.pt")
    sampler = Sampler(np.random.SeedSequence([8, training.step]))
    scenes = [random_scene(sampler) for _ in range(PICTURES)]
    pixels = np.stack([processor.render_pixels(scene) for scene in scenes])
    labels = torch.from_numpy(np.stack([token_labels(scene, processor.tokens_per_side) for scene in scenes]))

    def loss() -> tuple[Tensor, dict[str, float]]:
        chosen = sampler.rng.integers(PICTURES, size=BATCH)
        features = encode_images(model.visual, processor.patches(pixels[chosen]), processor.grid)
        return probe_loss(model.probe(features), labels[chosen])

    training.run(loss, seconds)
    training.load_averaged_weights()
    checkpoint.save("mllm", mllm)
