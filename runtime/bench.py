"""Measures the original's efficiency table on a bundle: input images × how much of the schedule is guided.

The pictures mean nothing here (noise as references, one prompt); only seconds and memory do.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .caches import CachePolicy
from .describe import installed_version
from .pipeline import Pipeline
from .request import Request

PROMPT = (
    "A quiet harbour at dawn, small wooden boats on still water, soft mist over the hills behind, a gull on a post, warm "
    "light from the windows of a white house, painted in fine detail"
)
VERSIONED = ("omnigen2-rt", "numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt")
RANGES = ((0.0, 1.0), (0.0, 0.6))


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table: medians in seconds, by stage and in all; the process's peak memory, or None if unknown."""

    references: int
    cfg_range: tuple[float, float]
    seconds: float
    stages: dict[str, float]
    peak_bytes: int | None


def measure(
    pipeline: Pipeline,
    *,
    size_px: int,
    steps: int,
    repeat: int = 1,
    references: int = 3,
    cache: CachePolicy | None = None,
    progress: Callable[[int, int, str], object] = lambda done, total, what: None,
) -> list[Case]:
    """Draw every case `repeat` times after one short drawing that opens the components.

    Each drawing's prompt is a new one, because a prompt that was just encoded is not encoded again.
    """
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8) for _ in range(references)]
    cases = [(count, guided) for count in range(references + 1) for guided in RANGES]
    measured = []
    for done, (count, guided) in enumerate(cases):
        progress(done, len(cases), f"+{count} images, cfg_range {guided}")
        request = _request(images[:count], guided, size_px, steps, cache)
        pipeline.generate(replace(request, steps=1, cache=None))
        _reset_peak()
        runs = [
            pipeline.generate(replace(request, prompt=f"{PROMPT}, {run}")).timings
            for run in range(done * repeat, (done + 1) * repeat)
        ]
        stages = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
        seconds = statistics.median(sum(run.values()) for run in runs)
        measured.append(
            Case(references=count, cfg_range=guided, seconds=seconds, stages=stages, peak_bytes=_peak_bytes())
        )
    return measured


def _request(
    images: list[np.ndarray], guided: tuple[float, float], size_px: int, steps: int, cache: CachePolicy | None
) -> Request:
    return Request(
        prompt=PROMPT,
        images=images,
        height_px=size_px,
        width_px=size_px,
        steps=steps,
        image_guidance=2.0,
        cfg_range=guided,
        align_size=False,
        cache=cache,
    )


def table(cases: list[Case]) -> str:
    """The cases as a text table."""
    stages = list(cases[0].stages)
    rows = [["images", "cfg_range", *(f"{stage} s" for stage in stages), "total s", "peak MB"]]
    for case in cases:
        peak = "?" if case.peak_bytes is None else f"{case.peak_bytes / 1e6:.0f}"
        spent = [f"{case.stages[stage]:.2f}" for stage in stages]
        rows.append([f"+{case.references}", str(case.cfg_range), *spent, f"{case.seconds:.2f}", peak])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def to_json(pipeline: Pipeline, cases: list[Case]) -> dict[str, Any]:
    """The cases with the machine and the versions they were measured on."""
    return {
        "machine": {"system": platform.platform(), "processor": _processor(), "python": platform.python_version()},
        "versions": {name: installed_version(name) for name in VERSIONED},
        "bundle": pipeline.bundle.manifest.source,
        "backend": pipeline.backend.name,
        "precision": pipeline.backend.precision,
        "components opened": pipeline.sessions.opened,
        "cases": [asdict(case) for case in cases],
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")


def _reset_peak() -> None:
    """Linux: forget the process's peak, so that the next reading is this case's own."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _peak_bytes() -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)
