"""Episodes on the training's device, their batches, and how the MLLM reads these.

Everything that a step needs lies on the device, so a GPU doesn't wait for data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ...reference.mllm import MLLM, mrope_tables
from ...reference.vision import VisionConfig, VisionEncoder, Windows
from ...runtime.manifest import ImageProcessorParameters
from ...runtime.mllm.image_processor import patch_multiple_size
from ...runtime.mllm.vision_tables import vision_tables
from .episodes import Encoder
from .shards import Shard, to_device

CHUNK_BATCHES = 8
"""Batches that are drawn together and sorted by length, to reduce padding."""

MOST_SHIFT_PX = 2
"""The largest random shift of pictures along each axis; it keeps the vision encoder from learning pictures by heart."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch of episodes, padded on the right.

    rows: (B) the episodes' indices.
    ids: (B, T) int64.
    attention_mask: (B, T) bool, false for padding.
    answers: (B, T) int64, the index of the answer that a token belongs to, or -1.
    cos, sin: (B, T, Dh) float32.
    patches: (N, patches, values) float32, the pictures that the episodes show.
    labels: (N, tokens, 7) int64, their `token_labels`.
    grid: the patches (frames, rows, columns) of each picture.
    """

    rows: NDArray[np.int64]
    ids: Tensor
    attention_mask: Tensor
    answers: Tensor
    cos: Tensor
    sin: Tensor
    patches: Tensor
    labels: Tensor
    grid: tuple[int, int, int]


class Corpus:
    """Shards of episodes with pictures of one size, joined.

    lengths, starts: (E) int64, each episode's tokens and where they begin among all tokens.
    ids: (N) int16; positions: (3, N) int16; answers: (N) int32, the index of the answer that a token belongs to, or -1.
    answer_kinds: (A) int64, indices in `episodes.ANSWERS`.
    pictures: (P, height, width, 3) uint8, those that are shown; labels: (P, tokens, 7) int8.
    """

    def __init__(
        self, shards: Iterable[tuple[Shard, NDArray[np.uint8]]], encoder: Encoder, device: torch.device
    ) -> None:
        self.encoder, self.device = encoder, device
        parts, pictures, labels = list[Shard](), list[Tensor](), list[Tensor]()
        for shard, rendered in shards:
            chosen = shard.shown[:, 1]
            pictures.append(to_device(rendered[chosen], device))
            labels.append(to_device(shard.labels[chosen], device))
            parts.append(shard._replace(packed_pictures=np.zeros(0, np.uint8)))
        width, height = parts[0].size_px.tolist()
        self.grid = encoder.grids[width, height]
        self.pictures, self.labels = torch.cat(pictures), torch.cat(labels)
        self.lengths = np.concatenate([part.lengths for part in parts]).astype(np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.ids = to_device(np.concatenate([part.ids for part in parts]), device)
        self.positions = to_device(np.concatenate([part.positions for part in parts], axis=1), device)
        episodes = np.cumsum([0, *(len(part.lengths) for part in parts)])
        shown_episodes = np.concatenate([part.shown[:, 0] + first for part, first in zip(parts, episodes, strict=False)])
        self.shown_counts = np.bincount(shown_episodes, minlength=len(self.lengths))
        self.shown_starts = np.cumsum(self.shown_counts) - self.shown_counts
        answers = [part.answers + [first, 0, 0, 0] for part, first in zip(parts, episodes, strict=False)]
        numbers, joined = np.full(int(self.lengths.sum()), -1, np.int32), np.concatenate(answers)
        for number, (episode, start, end, _) in enumerate(joined.tolist()):
            numbers[self.starts[episode] + start : self.starts[episode] + end] = number
        self.answers = to_device(numbers, device)
        self.answer_kinds = to_device(joined[:, 3].astype(np.int64), device)
        self.has_answer = np.bincount(joined[:, 0], minlength=len(self.lengths)) > 0

    def batch(self, rows: NDArray[np.int64], shift_px: tuple[int, int] = (0, 0)) -> Batch:
        """The batch of these episodes. shift_px: moves the content of all pictures down and right, around the border."""
        steps = torch.arange(int(self.lengths[rows].max()), device=self.device)
        starts, lengths = (to_device(array[rows], self.device) for array in (self.starts, self.lengths))
        mask = steps < lengths[:, None]
        tokens = torch.where(mask, starts[:, None] + steps, 0)
        positions = torch.where(mask, self.positions[:, tokens].long(), 0)
        config = self.encoder.mllm_config
        cos, sin = mrope_tables(positions, config.head_width, config.rope_theta, config.mrope_section)
        shown = to_device(self.shown(rows), self.device)
        return Batch(
            rows=rows,
            ids=torch.where(mask, self.ids[tokens].long(), 0),
            attention_mask=mask,
            answers=torch.where(mask, self.answers[tokens].long(), -1),
            cos=cos,
            sin=sin,
            patches=picture_patches(torch.roll(self.pictures[shown], shift_px, (1, 2)), self.encoder.image_processor),
            labels=self.labels[shown].long(),
            grid=self.grid,
        )

    def shown(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The indices of the pictures that these episodes show, in the order of their tokens."""
        ranges = [np.arange(self.shown_starts[row], self.shown_starts[row] + self.shown_counts[row]) for row in rows]
        return np.concatenate(ranges).astype(np.int64)

    def random_batches(self, rng: np.random.Generator, tokens: int, chances: NDArray[np.float64]) -> Iterator[Batch]:
        """Endless batches of up to `tokens` tokens, padding included, their pictures slightly shifted at random.

        chances: (E), relative, of each episode.
        """
        cumulative = np.cumsum(chances)
        mean = float((self.lengths * chances).sum() / cumulative[-1])
        while True:
            points = rng.random(max(1, int(CHUNK_BATCHES * tokens / mean))) * cumulative[-1]
            chunk = np.searchsorted(cumulative, points, side="right")
            batches = list(self.cut(chunk, tokens))
            for number in rng.permutation(len(batches)):
                down, right = rng.integers(-MOST_SHIFT_PX, MOST_SHIFT_PX + 1, size=2).tolist()
                yield self.batch(batches[number], (down, right))

    def cut(self, rows: NDArray[np.int64], tokens: int) -> Iterator[NDArray[np.int64]]:
        """The episodes sorted by length, in batches of up to `tokens` tokens, padding included."""
        ordered = rows[self.lengths[rows].argsort(kind="stable")]
        first = 0
        while first < len(ordered):
            last = first + 1
            while last < len(ordered) and (last + 1 - first) * self.lengths[ordered[last]] <= tokens:
                last += 1
            yield ordered[first:last]
            first = last


def picture_patches(pictures: Tensor, processor: ImageProcessorParameters) -> Tensor:
    """The batched equivalent of `vision_patches`, to two grey levels: (N, h, w, 3) uint8 -> (N, patches, values) float32."""
    p = processor
    unit = p.patch_size * p.merge_size
    size = patch_multiple_size(pictures.shape[2], pictures.shape[1], p)
    rows, columns = size.height_px // unit, size.width_px // unit
    if not len(pictures):
        values = 3 * p.temporal_patch_size * p.patch_size**2
        return torch.zeros(0, rows * columns * p.merge_size**2, values, device=pictures.device)
    sides = size.height_px, size.width_px
    resized = F.interpolate(pictures.permute(0, 3, 1, 2).float(), sides, mode="bicubic", antialias=True)
    grey = resized.clamp(0, 255).round() * p.rescale_factor
    mean, std = (torch.tensor(values, device=pictures.device)[:, None, None] for values in (p.image_mean, p.image_std))
    normalized = ((grey - mean) / std).permute(0, 2, 3, 1)
    tiles = normalized.reshape(len(pictures), rows, p.merge_size, p.patch_size, columns, p.merge_size, p.patch_size, 3)
    tiles = tiles.permute(0, 1, 4, 2, 5, 7, 3, 6).unsqueeze(6)
    return tiles.expand(-1, -1, -1, -1, -1, -1, p.temporal_patch_size, -1, -1).flatten(5).flatten(1, 4)


class Tables(NamedTuple):
    """The vision encoder's tables of one picture on a device. See `VisionTables`."""

    cos: Tensor
    sin: Tensor
    members: Tensor
    present: Tensor
    slots: Tensor


@lru_cache(maxsize=8)
def _tables(config: VisionConfig, grid: tuple[int, int, int], device: torch.device) -> Tables:
    tables = vision_tables(
        grid,
        merge=config.spatial_merge_size,
        window_px=config.window_size,
        patch_px=config.patch_size,
        head_width=config.head_width,
    )
    return Tables(*(torch.from_numpy(table).to(device) for table in tables))


def encode_images(visual: VisionEncoder, patches: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Image features of many pictures of one size: (N, patches, values) -> (N, tokens, Dt). Each attends only to itself."""
    config, (count, size, _), device = visual.config, patches.shape, patches.device
    tables = _tables(config, grid, device)
    numbers = torch.arange(count, device=device)
    windows, slots = tables.members.shape
    windowed = Windows(
        (tables.members + numbers[:, None, None] * size).flatten(0, 1),
        tables.present.repeat(count, 1),
        (tables.slots + numbers[:, None] * windows * slots).flatten(),
    )
    indices = torch.arange(count * size, device=device)
    full = Windows(
        indices.reshape(count, size), torch.ones(count, size, dtype=torch.bool, device=device), indices
    )
    cos, sin = tables.cos.repeat(count, 1), tables.sin.repeat(count, 1)
    hidden = visual.patch_embed(patches.flatten(0, 1))
    for number, block in enumerate(visual.blocks):
        hidden = block(hidden, cos, sin, full if number in config.fullatt_block_indexes else windowed)
    features: Tensor = visual.merger(hidden)
    return features.reshape(count, -1, features.shape[-1])


def run_mllm(mllm: MLLM, batch: Batch, encoder: Encoder) -> tuple[Tensor, Tensor | None]:
    """The last hidden states of every token (B, T, Dt), and the image features (N, tokens, Dt) or None without pictures."""
    model, features = mllm.language_model, None
    embeds = model.embed_tokens(batch.ids)
    if len(batch.patches):
        features = encode_images(mllm.visual, batch.patches, batch.grid)
        image_mask = (batch.ids == encoder.image_token).unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(image_mask, features.to(embeds.dtype))
    length = batch.ids.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool, device=embeds.device).tril()[None, None]
    hidden: Tensor
    hidden, _, _ = model(embeds, batch.cos, batch.sin, mask, *model.empty_cache(len(batch.ids)))
    return hidden, features
