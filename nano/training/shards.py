"""The training's data on disk: shards of random episodes, written by several processes and read onto the training's device.

Each shard has its own seed and is written atomically, so a killed session leaves none that is incomplete. A shard's pictures all
have one size.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...runtime.files.writing import atomic_file
from ..world.scenes import SIZES_PX, SQUARE, PictureSize, Sampler
from .episodes import MOST_REFERENCES, Encoder, Episode, random_episode
from .labels import token_labels, token_offsets

EPISODES = 2048
"""Episodes of a shard."""
SHARD_SIZES_PX = (SQUARE, SIZES_PX[1], SQUARE, SIZES_PX[2], SQUARE)
"""Sizes of the pictures of successive shards, again and again."""
TARGET_TOKEN_PX = 32
"""The side of a token in the transformer."""
POLL_S = 0.5


class Shard(NamedTuple):
    """E episodes of N tokens in all, with P pictures, of which K are shown, with A answers and D drawings.

    lengths: (E) int32, the tokens of each episode.
    ids: (N) int16.
    positions: (3, N) int16.
    shown: (K, 2) int32, in order: episode, picture.
    answers: (A, 4) int32: episode, first token, the one after the last, kind.
    drawings: (D, 7) int32: episode, first token, the one after the last, target, then three references or -1.
    size_px: (2) int32, the pictures' width and height.
    packed_pictures: the pictures (P, height, width, 3) uint8, compressed.
    labels: (P, tokens, 7) int8, the `token_labels` for the vision encoder.
    target_labels, target_offsets: (P, L, 7) int8 and (P, L, 3) float16, those for the transformer.
    Tokens are counted from the episode's first.
    """

    lengths: NDArray[np.int32]
    ids: NDArray[np.int16]
    positions: NDArray[np.int16]
    shown: NDArray[np.int32]
    answers: NDArray[np.int32]
    drawings: NDArray[np.int32]
    size_px: NDArray[np.int32]
    packed_pictures: NDArray[np.uint8]
    labels: NDArray[np.int8]
    target_labels: NDArray[np.int8]
    target_offsets: NDArray[np.float16]

    @property
    def pictures(self) -> NDArray[np.uint8]:
        """The pictures (P, height, width, 3) uint8."""
        width, height = self.size_px.tolist()
        return np.frombuffer(zlib.decompress(self.packed_pictures.tobytes()), np.uint8).reshape(-1, height, width, 3)


def pack(episodes: Sequence[Episode], encoder: Encoder, size_px: PictureSize = SQUARE) -> Shard:
    """The episodes as a shard. The indices of pictures count through all episodes. size_px: of all pictures."""
    first = np.cumsum([0, *(len(episode.pictures) for episode in episodes)]).tolist()
    shown, answers, drawings = list[tuple[int, ...]](), list[tuple[int, ...]](), list[tuple[int, ...]]()
    for k, episode in enumerate(episodes):
        shown += [(k, first[k] + picture) for picture in episode.shown]
        answers += [(k, *answer) for answer in episode.answers]
        for start, end, target, references in episode.drawings:
            pictures = [first[k] + reference for reference in references]
            pictures += [-1] * (MOST_REFERENCES - len(pictures))
            drawings.append((k, start, end, first[k] + target, *pictures))
    pictures_of_all = [picture for episode in episodes for picture in episode.pictures]
    scenes = [picture.scene for picture in pictures_of_all]
    grid, target_grid = encoder.token_grid(size_px), (size_px[1] // TARGET_TOKEN_PX, size_px[0] // TARGET_TOKEN_PX)
    rendered = b"".join(picture.render().tobytes() for picture in pictures_of_all)
    return Shard(
        lengths=np.array([len(episode.ids) for episode in episodes], np.int32),
        ids=np.concatenate([episode.ids for episode in episodes]).astype(np.int16),
        positions=np.concatenate([encoder.positions(episode) for episode in episodes], axis=1).astype(np.int16),
        shown=np.array(shown, np.int32).reshape(-1, 2),
        answers=np.array(answers, np.int32).reshape(-1, 4),
        drawings=np.array(drawings, np.int32).reshape(-1, 4 + MOST_REFERENCES),
        size_px=np.array(size_px, np.int32),
        packed_pictures=np.frombuffer(zlib.compress(rendered, 1), np.uint8),
        labels=_stacked([token_labels(scene, grid) for scene in scenes]).astype(np.int8),
        target_labels=_stacked([token_labels(scene, target_grid) for scene in scenes]).astype(np.int8),
        target_offsets=_stacked([token_offsets(scene, target_grid) for scene in scenes]).astype(np.float16),
    )


def _stacked(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.stack(arrays) if arrays else np.zeros((0, 0, 0))


def write_shard(number: int, folder: Path, encoder: Encoder, episodes: int = EPISODES) -> Path:
    """Write random episodes from the shard's own seed, unless its file exists. Returns the file."""
    path = folder / f"{number:04}.npz"
    if not path.exists():
        size_px = shard_size_px(number)
        sampler = Sampler(np.random.SeedSequence([6, number]), size_px)
        shard = pack([random_episode(encoder, sampler) for _ in range(episodes)], encoder, size_px)
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(file, allow_pickle=False, **shard._asdict())
    return path


def write_shards(folder: Path, encoder: Encoder, count: int, workers: int) -> None:
    """Write the missing ones of the first `count` shards, in order, in several processes, which give way to the training's."""
    write = partial(write_shard, folder=folder, encoder=encoder)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=os.nice, initargs=(10,)) as pool:
        for _ in pool.map(write, range(count)):
            pass


def has_shards(folder: Path, count: int) -> bool:
    """Whether the first `count` shards are there."""
    return all((folder / f"{number:04}.npz").exists() for number in range(count))


def wait_for_shards(folder: Path, count: int) -> None:
    """Return when the first `count` shards are there; another process writes them."""
    while not has_shards(folder, count):
        time.sleep(POLL_S)


def shard_size_px(number: int) -> PictureSize:
    """The size of a shard's pictures."""
    return SHARD_SIZES_PX[number % len(SHARD_SIZES_PX)]


def read_shards(
    folder: Path, count: int, size_px: PictureSize | None = None, threads: int = 4
) -> Iterator[tuple[Shard, NDArray[np.uint8]]]:
    """The first `count` shards with their pictures, read ahead by a few threads. size_px: only those of this size."""
    numbers = [number for number in range(count) if size_px in (None, shard_size_px(number))]
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(_read_shard, folder / f"{number:04}.npz") for number in numbers[:threads]]
        for following in [*numbers[threads:], *[None] * len(futures)]:
            yield futures.pop(0).result()
            if following is not None:
                futures.append(pool.submit(_read_shard, folder / f"{following:04}.npz"))


def read_by_size(folder: Path, count: int) -> Iterator[Iterator[tuple[Shard, NDArray[np.uint8]]]]:
    """The first `count` shards of each size that they have, one size after the other."""
    for size_px in dict.fromkeys(map(shard_size_px, range(count))):
        yield read_shards(folder, count, size_px)


def _read_shard(path: Path) -> tuple[Shard, NDArray[np.uint8]]:
    with np.load(path) as stored:
        shard = Shard(*(stored[name] for name in Shard._fields))
    return shard, shard.pictures


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy of the array on the device."""
    return torch.from_numpy(np.array(array)).to(device)
