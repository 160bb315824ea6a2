"""What quantizing did to a bundle: each component on inputs of a real drawing, small drawings, and bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image

from ...runtime.backends import Backend
from ...runtime.bundle import Bundle
from ...runtime.pipeline import Pipeline
from ...runtime.request import Result
from ..verify.difference import difference, psnr
from .calibration import PRECISION, Calibration, Progress
from .observer import Arrays, ObservedBackend, Observer

PROMPT = "a yellow bird on a branch"
INSTRUCTION = "make the bird blue"
SEED = 1_000
"""Of the drawings that are compared; calibration's own start at 0."""

Feeds = dict[str, np.ndarray]
Runs = dict[str, tuple[Feeds, Feeds]]
"""A component's last inputs and outputs, by its name."""
Scoring = Callable[[Pipeline], float]
"""How good a model's pictures are, 0 to 1, where somebody can tell."""


@dataclass(frozen=True, kw_only=True)
class ComponentChange:
    """relative_error: of the L2 norm, the worst of its outputs, against the same graph before; None: it didn't run."""

    component: str
    relative_error: float | None
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, kw_only=True)
class DrawingChange:
    """relative_error: of the latents after the last step. psnr_db: of the picture; None where no pixel differs."""

    drawing: str
    relative_error: float
    psnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """What `quantization.json` holds. scores: before and after, as the caller's scoring gave them; None without one."""

    scheme: str
    components: tuple[ComponentChange, ...]
    drawings: tuple[DrawingChange, ...]
    size_px: int
    steps: int
    scores: tuple[float, float] | None = None

    def table(self) -> str:
        """The report as text, a line each."""
        rows = [f"{'':<20}{'error':>9}{'before':>13}{'after':>13}", *map(_component_line, self.components)]
        rows += map(_drawing_line, self.drawings)
        if self.scores is not None:
            rows.append(f"{'drawn rightly':<20}{'':>9}{self.scores[0]:>13.1%}{self.scores[1]:>13.1%}")
        return "\n".join(rows)

    def to_json(self) -> str:
        """The report as JSON; an error that isn't finite is null."""
        told = asdict(self)
        for row in (*told["components"], *told["drawings"]):
            error = row["relative_error"]
            row["relative_error"] = error if error is not None and math.isfinite(error) else None
        return json.dumps(told, indent=1, allow_nan=False) + "\n"


def measure(
    before: Bundle,
    after: Bundle,
    components: Sequence[str],
    scheme: str,
    calibration: Calibration,
    progress: Progress,
    score: Scoring | None = None,
) -> QuantizationReport:
    """Draw with both bundles from the same noise, run each of `components` on what the first drawing fed it, and score both.

    Both on ONNX Runtime in float32. Raises BackendError where an engine fails.
    """
    parts = 3 if score is None else 4
    progress("drawing as before", 0, parts)
    backend = calibration.open(before)
    runs: Runs = {}
    old = _draw(before, ObservedBackend(backend, _keeper(backend, runs, components)), calibration)
    progress("drawing quantized", 1, parts)
    new = _draw(after, calibration.open(after), calibration, _pictures(old))
    progress("comparing components", 2, parts)
    changes = tuple(_component(name, before, after, calibration, runs) for name in components)
    if score is not None:
        progress("scoring", 3, parts)
    return QuantizationReport(
        scheme=scheme,
        components=changes,
        drawings=tuple(_drawing(name, old[name], new[name]) for name in old),
        size_px=calibration.size_px,
        steps=calibration.steps,
        scores=None if score is None else (_scored(before, calibration, score), _scored(after, calibration, score)),
    )


def _scored(bundle: Bundle, calibration: Calibration, score: Scoring) -> float:
    with Pipeline(bundle, calibration.open(bundle), calibration.memory_limit_bytes) as pipeline:
        return score(pipeline)


def _draw(
    bundle: Bundle, backend: Backend, calibration: Calibration, pictures: Sequence[Image.Image] = ()
) -> dict[str, Result]:
    """From words, and an edit of `pictures` (by default of what was drawn); and a word, so that lm_head runs."""
    with Pipeline(bundle, backend, calibration.memory_limit_bytes) as pipeline:
        if bundle.manifest.chat is not None:
            pipeline.chat(PROMPT, max_new_tokens=1, may_draw=False)
        drawn = pipeline.generate(calibration.request(PROMPT, SEED))
        request = calibration.request(INSTRUCTION, SEED)
        edit = replace(request, images=tuple(pictures or drawn.images), image_guidance=2.0)
        return {"text to image": drawn, "image editing": pipeline.generate(edit)}


def _pictures(drawn: Mapping[str, Result]) -> list[Image.Image]:
    return drawn["text to image"].images


def _keeper(backend: Backend, runs: Runs, components: Sequence[str]) -> Observer:
    def on_host(arrays: Arrays) -> Feeds:
        return {
            name: array.copy() if isinstance(array, np.ndarray) else backend.to_host(array)
            for name, array in arrays.items()
        }

    def keep(component: str, feeds: Arrays, outputs: Arrays) -> None:
        if component in components:
            runs[component] = on_host(feeds), on_host(outputs)

    return keep


def _component(name: str, before: Bundle, after: Bundle, calibration: Calibration, runs: Runs) -> ComponentChange:
    error = None
    if name in runs:
        feeds, wanted = runs[name]
        backend = calibration.open(after)
        outputs = backend.open(name).run(feeds)
        given = {output: backend.to_host(array) for output, array in outputs.items()}
        error = max(_relative_error(wanted[output], given[output]) for output in wanted)
    sizes = [bundle.graph(name, PRECISION).weight_bytes for bundle in (before, after)]
    return ComponentChange(component=name, relative_error=error, bytes_before=sizes[0], bytes_after=sizes[1])


def _relative_error(wanted: np.ndarray, given: np.ndarray) -> float:
    return difference("", "", wanted, given, math.inf).relative_error


def _drawing(name: str, old: Result, new: Result) -> DrawingChange:
    pixels = [np.stack([np.asarray(image) for image in result.images]) for result in (old, new)]
    error = _relative_error(old.latents, new.latents)
    return DrawingChange(drawing=name, relative_error=error, psnr_db=psnr(*pixels))


def _component_line(row: ComponentChange) -> str:
    error = "not run" if row.relative_error is None else f"{row.relative_error:.1e}"
    return f"{row.component:<20}{error:>9}{row.bytes_before / 1e6:>10.1f} MB{row.bytes_after / 1e6:>10.1f} MB"


def _drawing_line(row: DrawingChange) -> str:
    return f"{row.drawing:<20}{row.relative_error:>9.1e}  {'same' if row.psnr_db is None else f'{row.psnr_db:.1f} dB'}"
