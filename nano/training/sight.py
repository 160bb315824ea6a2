"""Trains the eyes alone: what each of the language model's image tokens must tell of its part of the picture.

Answers to questions teach shapes slowly: a word is a faint signal for a vision tower that sees nothing yet. So a probe that is
thrown away afterwards asks every token for the thing it shows and for the background; the language model learns to read later.
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
from .conversations import Reader, look
from .loop import Schedule, Training, fused
from .vae import some_scene

BATCH = 96
PICTURES = 6_000
"""Rendered anew for every sitting."""
REACH = 1.1
"""A token shows a thing if the middle of its square is within so many radii of the thing's, and half the square's side."""
PARTS = (len(COLOURS), len(SHAPES) + 1, len(COLOURS) + 1, len(RADII_PX) + 1, len(RELATIONS) + 1, 3)
"""Answers that the probe chooses among: the background; shape, colour and size of the thing, how it lies to the only other one,
and whether it is well (1) or badly drawn (2). 0 where there is none."""
SCHEDULE = Schedule(learning_rate=1.5e-3, averaging=0.998, with_muon=True)


def shown(scene: Scene, tokens_a_side: int) -> NDArray[np.int64]:
    """What each token of a picture shows: (tokens, 6) numbers below those of PARTS, row by row."""
    answers = np.zeros((tokens_a_side**2, len(PARTS)), np.int64)
    answers[:, 0] = list(COLOURS).index(scene.background)
    for number, _, _, thing in _seen(scene, tokens_a_side):
        kinds = SHAPES.index(thing.shape), list(COLOURS).index(thing.colour), list(RADII_PX).index(thing.size)
        answers[number, 1:4] = np.array(kinds) + 1
        answers[number, 5] = 2 if is_badly_drawn(thing) else 1
        if len(scene.things) == 2:
            (other,) = (each for each in scene.things if each is not thing)
            answers[number, 4] = RELATIONS.index(relation_between(thing, other)) + 1
    return answers


def places(scene: Scene, tokens_a_side: int) -> NDArray[np.float32]:
    """Where each token's thing is: (tokens, 3), from the middle of its square and in its sides, and the radius; 0 for none."""
    side = SIDE_PX / tokens_a_side
    found = np.zeros((tokens_a_side**2, 3), np.float32)
    for number, x, y, thing in _seen(scene, tokens_a_side):
        found[number] = (thing.x - x) / side, (thing.y - y) / side, thing.radius / side
    return found


def _seen(scene: Scene, tokens_a_side: int) -> Iterator[tuple[int, float, float, Thing]]:
    """The tokens that show a thing: number, the middle of the square, the thing."""
    side = SIDE_PX / tokens_a_side
    for number in range(tokens_a_side**2):
        x, y = (number % tokens_a_side + 0.5) * side, (number // tokens_a_side + 0.5) * side
        thing = min(scene.things, key=lambda each: math.hypot(each.x - x, each.y - y))
        if math.hypot(thing.x - x, thing.y - y) < REACH * thing.radius + side / 2:
            yield number, x, y, thing


class Sighted(nn.Module):
    """The vision tower, and the probe for what its tokens show."""

    def __init__(self, visual: VisionEncoder) -> None:
        super().__init__()
        self.visual = visual
        self.probe = probe(visual)


def probe(visual: VisionEncoder) -> nn.Linear:
    """From an image token to the scores of all of PARTS."""
    return nn.Linear(visual.config.out_hidden_size, sum(PARTS))


def sight_loss(scores: Tensor, answers: Tensor) -> tuple[Tensor, dict[str, float]]:
    """scores: (N, tokens, sum(PARTS)); answers: (N, tokens, 6). The loss, and how often a thing's shape and relation are told."""
    parts = torch.split(scores.flatten(0, 1).float(), list(PARTS), dim=-1)
    wanted = answers.flatten(0, 1).unbind(-1)
    loss = torch.stack([F.cross_entropy(part, right) for part, right in zip(parts, wanted, strict=True)]).sum()
    there = wanted[1] > 0
    right = (parts[1].argmax(-1) == wanted[1]) & (parts[4].argmax(-1) == wanted[4])
    return loss, {"told": float(right[there].float().mean())}


def train(work: Path, seconds: float) -> None:
    """One sitting; writes the whole language model's weights, of which the eyes have changed."""
    torch.manual_seed(0)
    reader = Reader(checkpoint.CHECKPOINT)
    mllm = checkpoint.started("mllm", checkpoint.initialize_mllm)
    sighted = Sighted(mllm.visual)
    fused(sighted, VisionBlock)
    training = Training(sighted, SCHEDULE, work / "sight.pt")
    sampler = Sampler(np.random.SeedSequence([8, training.step]))
    scenes = [some_scene(sampler) for _ in range(PICTURES)]
    pixels = np.stack([reader.pixels(scene) for scene in scenes])
    answers = torch.from_numpy(np.stack([shown(scene, reader.tokens_a_side) for scene in scenes]))

    def loss() -> tuple[Tensor, dict[str, float]]:
        chosen = sampler.rng.integers(PICTURES, size=BATCH)
        seen = look(sighted.visual, reader.patches(pixels[chosen]), reader.grid)
        return sight_loss(sighted.probe(seen), answers[chosen])

    training.run(loss, seconds)
    training.average_into_network()
    checkpoint.save("mllm", mllm)
