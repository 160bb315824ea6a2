"""Angles and windows of an image's grid for the vision encoder. Qwen2.5-VL's (transformers/models/qwen2_5_vl).

Knows grids and no pixels; every number comes from the caller.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class VisionTables(NamedTuple):
    cos: np.ndarray  # (N, Dh) float32
    sin: np.ndarray
    window_members: np.ndarray  # (W, M) int64: patch numbers, 0 where a window has fewer
    window_present: np.ndarray  # (W, M) bool
    window_slots: np.ndarray  # (N,) int64: where patch n lies among the W*M


def vision_tables(
    grid_thw: tuple[int, int, int], *, merge: int, window_px: int, patch_px: int, head_width: int
) -> VisionTables:
    """The tables of one image or clip of (frames, rows, columns) patches, in the image processor's order.

    That order: merged patches row by row, and the merge*merge patches of each one after another.
    Windows are window_px // merge // patch_px merged patches wide and high, smaller at the right and bottom.
    """
    frames, rows, columns = grid_thw
    row, column = _patch_places(rows, columns, merge)
    cos, sin = _angles(row, column, head_width)
    side = window_px // merge // patch_px * merge
    window = row // side * -(-columns // side) + column // side
    windows = window.max() + 1
    window = np.concatenate([window + frame * windows for frame in range(frames)])
    members, present, slots = _pack(window)
    return VisionTables(np.tile(cos, (frames, 1)), np.tile(sin, (frames, 1)), members, present, slots)


def _patch_places(rows: int, columns: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    places = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    merged = places.reshape(2, rows // merge, merge, columns // merge, merge).transpose(0, 1, 3, 2, 4)
    row, column = merged.reshape(2, -1)
    return row, column


def _angles(row: np.ndarray, column: np.ndarray, head_width: int) -> tuple[np.ndarray, np.ndarray]:
    """A quarter of the head turns by the row, a quarter by the column, and its other half likewise."""
    frequencies = 10000.0 ** -(np.arange(0, head_width // 2, 2) / (head_width // 2))
    half = np.concatenate([row[:, None] * frequencies, column[:, None] * frequencies], axis=1)
    angles = np.concatenate([half, half], axis=1)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _pack(window: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """window: (N,) the window of each patch -> members, present, slots."""
    counts = np.bincount(window)
    order = np.argsort(window, kind="stable")
    within = np.arange(len(window)) - np.repeat(np.cumsum(counts) - counts, counts)
    present = np.arange(counts.max()) < counts[:, None]
    members = np.zeros(present.shape, np.int64)
    members[present] = order
    slots = np.empty(len(window), np.int64)
    slots[order] = window[order] * counts.max() + within
    return members, present, slots
