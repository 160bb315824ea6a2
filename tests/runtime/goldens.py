"""Recorded outputs of the original model (tests/data/goldens), as the tests here read them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

GOLDENS = Path(__file__).resolve().parents[1] / "data" / "goldens"
CONFIGS = ("A", "B")
CPU_BACKENDS = ("ort-cpu", "openvino")
"""The backends that run the recorded cases, in fp32."""


@cache
def manifest(config: str) -> dict[str, Any]:
    """The recordings: by file, the call, its arguments and its arrays."""
    files: dict[str, Any] = json.loads((GOLDENS / config / "golden" / "manifest.json").read_text())["files"]
    return files


def arguments(config: str, name: str) -> dict[str, Any]:
    """The arguments of one recording, such as "pipe_t2i"."""
    args: dict[str, Any] = manifest(config)[f"{name}.npz"]["args"]
    return args


def arrays(config: str, name: str) -> dict[str, np.ndarray]:
    """The arrays of one recording."""
    with np.load(GOLDENS / config / "golden" / f"{name}.npz") as file:
        return dict(file)


def recordings(prefix: str) -> list[tuple[str, str]]:
    """(config, name) of the recordings whose names begin so."""
    return [(c, f[:-4]) for c in CONFIGS for f in manifest(c) if f.startswith(prefix)]


def calls_by_step(config: str, name: str) -> list[dict[str, bool]]:
    """The transformer calls of a pipeline recording: for each step, the branches and whether each was computed.

    The original's order is cond, ref, uncond; with two calls the second is "uncond".
    """
    steps: dict[int, list[bool]] = {}
    for step, _refs, _counts, _tokens, computed, _kind in arguments(config, name)["transformer_calls"]:
        steps.setdefault(step, []).append(bool(computed))
    names = {1: ("cond",), 2: ("cond", "uncond"), 3: ("cond", "ref", "uncond")}
    return [dict(zip(names[len(calls)], calls, strict=True)) for _, calls in sorted(steps.items())]
