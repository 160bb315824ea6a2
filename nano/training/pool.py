"""Encoded drawing tasks for the transformer's training: hidden states of requests, latents of pictures.

A pool is a folder of shards. A shard groups its tasks by the numbers of references and tokens, so batches need no padding and
no masks. Shards are written atomically.
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
from ...runtime.files.writing import atomic_file
from ..drawing_tasks import DrawingTask, combine, draw_count, draw_one, draw_two, edit, redraw
from ..world import Sampler
from .conversations import Processor
from .mllm import run_mllm
from .vae import render_batch
from .vision_encoder import token_labels, token_offsets

SHARD_TASKS = 4096
CHAT_SHARE = 0.12
"""The share of requests that are encoded as a chat turn, whose pictures the language model reads too."""
TASKS = ((0.14, draw_one), (0.2, draw_two), (0.18, draw_count), (0.25, edit), (0.03, redraw), (0.2, combine))
ENCODING_BATCH = 64
TOKENS_PER_SIDE = 4
"""Image tokens per side of a picture in the transformer."""


class Group(NamedTuple):
    """n tasks of r references and T tokens.

    states: (n, T, Dt), the hidden states of the requests.
    latents: (n, 1 + r, C, h, w), scaled: the target, then the references.
    labels: (n, L, 6), the `token_labels` of the target.
    offsets: (n, L, 3), the `token_offsets` of the target.
    """

    states: NDArray[np.float16]
    latents: NDArray[np.float16]
    labels: NDArray[np.int64]
    offsets: NDArray[np.float32]


def random_task(sampler: Sampler) -> DrawingTask:
    """A random task of the training mixture."""
    share = sampler.rng.random()
    for part, make in TASKS:
        if share < part:
            return make(sampler)
        share -= part
    return TASKS[-1][1](sampler)


@torch.no_grad()
def write_shard(
    folder: Path, number: int, processor: Processor, mllm: MLLM, vae: VAE, tasks: int = SHARD_TASKS
) -> Path:
    """Encode random tasks from the shard's own seed, unless its file exists. Returns the file."""
    path = folder / f"{number:04}.npz"
    if path.exists():
        return path
    vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs
    sampler = Sampler(np.random.SeedSequence([6, number]))
    requests = [(random_task(sampler), sampler.chance(CHAT_SHARE)) for _ in range(tasks)]
    groups: dict[str, list[tuple[Tensor, DrawingTask]]] = defaultdict(list)
    for first in range(0, tasks, ENCODING_BATCH):
        batch = requests[first : first + ENCODING_BATCH]
        for (task, _), states in zip(batch, encode_requests(batch, processor, mllm), strict=True):
            groups[f"{len(task.inputs)}_{len(states)}"].append((states, task))
    arrays: dict[str, NDArray[Any]] = {}
    for key, members in groups.items():
        arrays[f"states_{key}"] = torch.stack([states for states, _ in members]).numpy().astype(np.float16)
        arrays[f"latents_{key}"] = _encode_pictures([task for _, task in members], vae).numpy().astype(np.float16)
        targets = [task.target for _, task in members]
        arrays[f"labels_{key}"] = np.stack([token_labels(scene, TOKENS_PER_SIDE) for scene in targets])
        arrays[f"offsets_{key}"] = np.stack([token_offsets(scene, TOKENS_PER_SIDE) for scene in targets])
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
    return path


def load(folder: Path) -> dict[tuple[int, int], Group]:
    """The groups of all shards, joined, by numbers of references and tokens. Raises FileNotFoundError if there is no shard."""
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


def scale_latents(vae: VAE, latents: Tensor) -> Tensor:
    """Shift and scale the autoencoder's latents to the transformer's space."""
    return (latents - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor


def encode_requests(requests: Sequence[tuple[DrawingTask, bool]], processor: Processor, mllm: MLLM) -> list[Tensor]:
    """The hidden states (T, Dt) of each request. requests: tasks, and whether to use the chat template."""
    turns = [
        processor.encode_turn(task.prompt, len(task.inputs)) if in_chat else processor.encode_request(task.prompt)
        for task, in_chat in requests
    ]
    pictures = [processor.render_pixels(scene) for task, in_chat in requests if in_chat for scene in task.inputs]
    batch = processor.collate(turns, np.stack(pictures) if pictures else processor.empty_pixels)
    hidden, _ = run_mllm(mllm, batch, processor)
    text_mask = batch.attention_mask & (batch.ids != processor.image_token)
    return [states[mask] for states, mask in zip(hidden, text_mask, strict=True)]


def encode_empty_request(processor: Processor, mllm: MLLM) -> Tensor:
    """The hidden states (T, Dt) of the empty request."""
    batch = processor.collate([processor.encode_request("")], processor.empty_pixels)
    return run_mllm(mllm, batch, processor)[0][0]


def _encode_pictures(tasks: list[DrawingTask], vae: VAE) -> Tensor:
    """Scaled latents (n, 1 + r, C, h, w). bfloat16 is three times as fast, and the decoder tolerates ten times its error."""
    scenes = [scene for task in tasks for scene in (task.target, *task.inputs)]
    with torch.autocast("cpu", torch.bfloat16):
        parts = [
            vae.encode(render_batch(scenes[k : k + ENCODING_BATCH]).to(memory_format=torch.channels_last))[0]
            for k in range(0, len(scenes), ENCODING_BATCH)
        ]
    latents = scale_latents(vae, torch.cat(parts).float())
    return latents.reshape(len(tasks), -1, *latents.shape[1:])
