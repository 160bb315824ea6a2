"""Measures the original's efficiency table on a bundle: input images × how much of the schedule is guided.

The pictures mean nothing here (noise as references, one prompt); only seconds and memory do.
"""

from __future__ import annotations

import platform
import statistics
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..runtime.errors import RequestError
from ..runtime.pipeline import Pipeline
from ..runtime.progress import Progress, no_progress
from ..runtime.request import Request
from ..runtime.step_caches import CachePolicy
from .describe import installed_version
from .options import check_range

PROMPT = (
    "A quiet harbour at dawn, small wooden boats on still water, soft mist over the hills behind, a gull on a post, warm "
    "light from the windows of a white house, painted in fine detail"
)
VERSIONED = ("omnigen2-rt", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13")
MOST_DRAWINGS = 1000
"""The most drawings of a case: their median changes no more."""
RANGES = ((0.0, 1.0), (0.0, 0.6))


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row of the table.

    seconds: the median drawing.
    stages: the median of each stage.
    peak_bytes: the process's peak memory; None if unknown.
    """

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
    progress: Progress = no_progress,
) -> list[Case]:
    """Draw every case `repeat` times after one short drawing that opens the components.

    Each drawing's prompt is a new one, because a prompt that was just encoded is not encoded again. Raises RequestError,
    before anything is measured, for a number that is out of range.
    """
    most = pipeline.bundle.manifest.transformer.max_references
    check_range("repeat", repeat, 1, MOST_DRAWINGS)
    if not 0 <= references <= most:
        raise RequestError(f"references={references} is out of range; this model takes 0 to {most}")
    request_of([], RANGES[0], size_px, steps, cache)
    if cache is not None:
        cache.check(pipeline.components.most_blended)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (size_px, size_px, 3), dtype=np.uint8) for _ in range(references)]
    cases = [(count, guided) for count in range(references + 1) for guided in RANGES]
    measured = []
    for done, (count, guided) in enumerate(cases):
        progress(done, len(cases), f"+{count} images, cfg_range {guided}")
        request = request_of(images[:count], guided, size_px, steps, cache)
        pipeline.generate(replace(request, steps=1, cache=None))
        _reset_peak()
        runs = [
            pipeline.generate(replace(request, prompt=f"{PROMPT}, {run}")).timings
            for run in range(done * repeat, (done + 1) * repeat)
        ]
        stages = {stage: statistics.median(run[stage] for run in runs) for stage in runs[0]}
        seconds = statistics.median(sum(run.values()) for run in runs)
        measured.append(
            Case(references=count, cfg_range=guided, seconds=seconds, stages=stages, peak_bytes=peak_bytes())
        )
    return measured


def request_of(
    images: list[np.ndarray], guided: tuple[float, float], size_px: int, steps: int, cache: CachePolicy | None
) -> Request:
    """The drawing that is measured. Raises RequestError where a number is out of range."""
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


def opened_components(pipeline: Pipeline) -> dict[str, Any]:
    """Each component in the order of its first opening: its openings and their seconds; and the most weights open at once.

    With a memory limit, this is what the limit costs.
    """
    sessions = pipeline.components.sessions
    spent: dict[str, list[float]] = {}
    for opening in sessions.openings:
        spent.setdefault(opening.component, []).append(opening.seconds)
    openings = {name: {"opened": len(seconds), "seconds": round(sum(seconds), 3)} for name, seconds in spent.items()}
    return {"in order": openings, "most open bytes": sessions.most_bytes}


def opened_line(pipeline: Pipeline) -> str:
    """The same for people, in a line."""
    facts = opened_components(pipeline)
    parts = [f"{name} {entry['opened']} x {entry['seconds']:.2f} s" for name, entry in facts["in order"].items()]
    return f"opened: {', '.join(parts)}; at most {facts['most open bytes'] / 1e6:.1f} MB of weights at once"


def to_json(pipeline: Pipeline, cases: list[Case]) -> dict[str, Any]:
    """The cases with the machine and the versions they were measured on."""
    return {
        **pipeline_facts(pipeline),
        "components": opened_components(pipeline),
        "cases": [asdict(case) for case in cases],
    }


def pipeline_facts(pipeline: Pipeline) -> dict[str, Any]:
    """The bundle, the engine, the machine and the versions that figures were measured on."""
    return {
        **machine_facts(),
        "bundle": pipeline.bundle.manifest.source,
        "backend": pipeline.backend.name,
        "precision": pipeline.backend.precision,
    }


def machine_facts() -> dict[str, Any]:
    """The machine and the versions that figures were measured on."""
    return {
        "machine": {"system": platform.platform(), "processor": _processor(), "python": platform.python_version()},
        "versions": {name: installed_version(name) for name in VERSIONED},
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("model name")), "")


def _reset_peak() -> None:
    """Reset the process's peak on Linux, so that the next reading is this case's own."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_bytes() -> int | None:
    """The peak of this process's resident memory; None where the system doesn't say (Linux does)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), None)
