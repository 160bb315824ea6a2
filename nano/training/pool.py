"""Drawing tasks encoded once for many passes of the transformer's training: hidden states of requests, latents of pictures.

A pool is a folder of shards; a shard holds tasks in groups of the same number of references and tokens, so that batches
need no padding and no masks. Shards are written whole or not at all, and more can be added at any time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...reference.mllm import MLLM
from ...reference.vae import VAE
from ..drawing_tasks import DrawingTask, combine, draw_count, draw_one, draw_two, edit, redraw
from ..world import Sampler
from .conversations import Reader
from .loop import written_whole
from .mllm import read
from .sight import places, shown
from .vae import pixels_of

SHARD = 4096
CHAT_SHARE = 0.12
"""How many requests come as a turn of a conversation, as `chat` draws them, their pictures seen by the language model too."""
TASKS = ((0.14, draw_one), (0.2, draw_two), (0.18, draw_count), (0.25, edit), (0.03, redraw), (0.2, combine))
ENCODED_AT_ONCE = 64
TOKENS_A_SIDE = 4
"""Of a picture, for the transformer."""


class Group(NamedTuple):
    """n tasks of r references and T tokens."""

    states: NDArray[np.float16]  # (n, T, Dt)
    latents: NDArray[np.float16]  # (n, 1 + r, C, h, w), scaled: the target, then the references
    shown: NDArray[np.int64]  # (n, L, 6): what each image token of the target shows, see `sight.shown`
    places: NDArray[np.float32]  # (n, L, 3): and where, see `sight.places`


def some_task(sampler: Sampler) -> DrawingTask:
    """A task of the training's mixture."""
    share = sampler.rng.random()
    for part, make in TASKS:
        if share < part:
            return make(sampler)
        share -= part
    return TASKS[-1][1](sampler)


@torch.no_grad()
def write_shard(folder: Path, number: int, reader: Reader, mllm: MLLM, vae: VAE, tasks: int = SHARD) -> Path:
    """Encode new tasks, drawn from the shard's own seed. Returns its file; one that is there already is left as it is."""
    path = folder / f"{number:04}.npz"
    if path.exists():
        return path
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs don't know it
    sampler = Sampler(np.random.SeedSequence([6, number]))
    drawn = [(some_task(sampler), sampler.chance(CHAT_SHARE)) for _ in range(tasks)]
    groups: dict[str, list[tuple[Tensor, DrawingTask]]] = defaultdict(list)
    for first in range(0, tasks, ENCODED_AT_ONCE):
        together = drawn[first : first + ENCODED_AT_ONCE]
        for (task, _), states in zip(together, request_states(together, reader, mllm), strict=True):
            groups[f"{len(task.inputs)}_{len(states)}"].append((states, task))
    arrays: dict[str, NDArray[Any]] = {}
    for key, members in groups.items():
        arrays[f"states_{key}"] = torch.stack([states for states, _ in members]).numpy().astype(np.float16)
        arrays[f"latents_{key}"] = _latents([task for _, task in members], vae).numpy().astype(np.float16)
        targets = [task.target for _, task in members]
        arrays[f"shown_{key}"] = np.stack([shown(scene, TOKENS_A_SIDE) for scene in targets])
        arrays[f"places_{key}"] = np.stack([places(scene, TOKENS_A_SIDE) for scene in targets])
    with written_whole(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def load(folder: Path) -> dict[tuple[int, int], Group]:
    """All shards' groups, joined, by references and tokens. Raises FileNotFoundError where there is no shard."""
    parts: dict[tuple[int, int], list[Group]] = defaultdict(list)
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as shard:
            for name in shard.files:
                kind, _, key = name.partition("_")
                if kind == "states":
                    references, tokens = map(int, key.split("_"))
                    parts[references, tokens].append(Group(*(shard[f"{field}_{key}"] for field in Group._fields)))
    if not parts:
        raise FileNotFoundError(f"{folder} has no shards")
    return {
        key: Group(*(np.concatenate(arrays) for arrays in zip(*groups, strict=True))) for key, groups in parts.items()
    }


def scaled(vae: VAE, latents: Tensor) -> Tensor:
    """The autoencoder's latents as the transformer knows them."""
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def request_states(asked: Sequence[tuple[DrawingTask, bool]], reader: Reader, mllm: MLLM) -> list[Tensor]:
    """The hidden states (T, Dt) of each request, as a turn of a conversation where it is marked as one, else to be drawn."""
    turns = [
        reader.turn(task.prompt, len(task.inputs)) if chat else reader.request(task.prompt) for task, chat in asked
    ]
    seen = [reader.pixels(scene) for task, in_chat in asked if in_chat for scene in task.inputs]
    batch = reader.batch(turns, np.stack(seen) if seen else reader.no_pixels)
    hidden, _ = read(mllm, batch, reader)
    words = batch.written & (batch.ids != reader.image_token)
    return [states[told] for states, told in zip(hidden, words, strict=True)]


def empty_states(reader: Reader, mllm: MLLM) -> Tensor:
    """The hidden states (T, Dt) of the empty request."""
    return read(mllm, reader.batch([reader.request("")], reader.no_pixels), reader)[0][0]


def _latents(tasks: list[DrawingTask], vae: VAE) -> Tensor:
    """(n, 1 + r, C, h, w). In bfloat16, three times as fast; its rounding is a tenth of the noise that the decoder bears."""
    scenes = [scene for task in tasks for scene in (task.target, *task.inputs)]
    with torch.autocast("cpu", torch.bfloat16):
        parts = [
            vae.encode(pixels_of(scenes[k : k + ENCODED_AT_ONCE]).to(memory_format=torch.channels_last))[0]
            for k in range(0, len(scenes), ENCODED_AT_ONCE)
        ]
    latents = scaled(vae, torch.cat(parts).float())
    return latents.reshape(len(tasks), -1, *latents.shape[1:])
