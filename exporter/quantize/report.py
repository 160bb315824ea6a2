"""Reports what quantization changed: each component's error on the inputs of a drawing, the drawings' errors, and bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from PIL import Image

from ...runtime.backends import Backend
from ...runtime.bundle import Bundle
from ...runtime.pipeline import Pipeline
from ...runtime.progress import Progress
from ...runtime.request import Result
from ..verify.difference import difference, psnr
from ..weights.placement import Copies
from .calibration import PRECISION, Calibration
from .observer import Arrays, ObservedBackend, Observer

PROMPT = "a yellow bird on a branch"
INSTRUCTION = "make the bird blue"
FROM_TEXT = "text to image"
SEED = 1_000
"""The seed of the compared drawings; calibration's start at 0."""

Feeds = dict[str, np.ndarray]
Runs = dict[str, tuple[Feeds, Feeds]]
"""A component's last inputs and outputs, by its name."""
Scoring = Callable[[Pipeline], float]
"""Returns the quality of a pipeline's pictures, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ComponentChange:
    """A component before and after.

    relative_error: of the L2 norm, the largest of its outputs; None: it didn't run.
    """

    component: str
    relative_error: float | None
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, kw_only=True)
class DrawingChange:
    """A drawing before and after.

    relative_error: of the latents after the last step.
    psnr_db: of the picture; None where no pixel differs.
    """

    drawing: str
    relative_error: float
    psnr_db: float | None


@dataclass(frozen=True, kw_only=True)
class QuantizationReport:
    """The content of `quantization.json`.

    scores: the caller's scores before and after; None without a scoring.
    copied: the unchanged files that had to be copied; not in the JSON.
    """

    scheme: str
    components: tuple[ComponentChange, ...]
    drawings: tuple[DrawingChange, ...]
    size_px: int
    steps: int
    scores: tuple[float, float] | None = None
    copied: Copies = Copies()

    def table(self) -> str:
        """The report as text: a line for each component, drawing and score."""
        rows = [f"{'':<20}{'error':>9}{'before':>13}{'after':>13}", *map(_component_line, self.components)]
        rows += map(_drawing_line, self.drawings)
        if self.scores is not None:
            rows.append(f"{'drawn rightly':<20}{'':>9}{self.scores[0]:>13.1%}{self.scores[1]:>13.1%}")
        if self.copied:
            rows.append(str(self.copied))
        return "\n".join(rows)

    def to_json(self) -> str:
        """The report as JSON; an error that isn't finite is null."""
        report = asdict(self)
        del report["copied"]
        for row in (*report["components"], *report["drawings"]):
            error = row["relative_error"]
            row["relative_error"] = error if error is not None and math.isfinite(error) else None
        return json.dumps(report, indent=1, allow_nan=False) + "\n"


def measure(
    before: Bundle,
    after: Bundle,
    components: Sequence[str],
    scheme: str,
    calibration: Calibration,
    progress: Progress,
    score: Scoring | None = None,
) -> QuantizationReport:
    """Draw with both bundles from the same noise, compare `components` on the inputs of the first drawings, and score both.

    Both run on ONNX Runtime in float32. Raises BackendError where an engine fails.
    """
    parts = 3 if score is None else 5
    progress(0, parts, "drawing as before")
    backend = calibration.open(before)
    runs: Runs = {}
    old = _draw(before, ObservedBackend(backend, _recorder(backend, runs, components)), calibration)
    progress(1, parts, "drawing quantized")
    new = _draw(after, calibration.open(after), calibration, old[FROM_TEXT].images)
    progress(2, parts, "comparing components")
    changes = tuple(_component_change(name, before, after, calibration, runs) for name in components)
    scores = None
    if score is not None:
        progress(3, parts, "scoring many pictures as before, which takes longest")
        scored = _score(before, calibration, score)
        progress(4, parts, "scoring many pictures quantized, which takes as long again")
        scores = scored, _score(after, calibration, score)
    return QuantizationReport(
        scheme=scheme,
        components=changes,
        drawings=tuple(_drawing_change(name, old[name], new[name]) for name in old),
        size_px=calibration.size_px,
        steps=calibration.steps,
        scores=scores,
    )


def _score(bundle: Bundle, calibration: Calibration, score: Scoring) -> float:
    with Pipeline(bundle, calibration.open(bundle), calibration.memory_limit_bytes) as pipeline:
        return score(pipeline)


def _draw(
    bundle: Bundle, backend: Backend, calibration: Calibration, pictures: Sequence[Image.Image] = ()
) -> dict[str, Result]:
    """Draw from a prompt, then edit `pictures` (by default the first drawing); generate one chat token, which runs lm_head."""
    with Pipeline(bundle, backend, calibration.memory_limit_bytes) as pipeline:
        if bundle.manifest.chat is not None:
            pipeline.chat(PROMPT, max_new_tokens=1, may_draw=False)
        from_text = pipeline.generate(calibration.request(PROMPT, SEED))
        request = calibration.request(INSTRUCTION, SEED)
        edit = replace(request, images=tuple(pictures or from_text.images), image_guidance=2.0)
        return {FROM_TEXT: from_text, "image editing": pipeline.generate(edit)}


def _recorder(backend: Backend, runs: Runs, components: Sequence[str]) -> Observer:
    def on_host(arrays: Arrays) -> Feeds:
        return {
            name: array.copy() if isinstance(array, np.ndarray) else backend.to_host(array)
            for name, array in arrays.items()
        }

    def record(component: str, feeds: Arrays, outputs: Arrays) -> None:
        if component in components:
            runs[component] = on_host(feeds), on_host(outputs)

    return record


def _component_change(name: str, before: Bundle, after: Bundle, calibration: Calibration, runs: Runs) -> ComponentChange:
    error = None
    if name in runs:
        feeds, expected = runs[name]
        backend = calibration.open(after)
        outputs = backend.open(name).run(feeds)
        error = max(_relative_error(array, backend.to_host(outputs[output])) for output, array in expected.items())
    sizes = [bundle.graph(name, PRECISION).weight_bytes for bundle in (before, after)]
    return ComponentChange(component=name, relative_error=error, bytes_before=sizes[0], bytes_after=sizes[1])


def _relative_error(expected: np.ndarray, actual: np.ndarray) -> float:
    return difference("", "", expected, actual, math.inf).relative_error


def _drawing_change(name: str, old: Result, new: Result) -> DrawingChange:
    pixels = [np.stack([np.asarray(image) for image in result.images]) for result in (old, new)]
    error = _relative_error(old.latents, new.latents)
    return DrawingChange(drawing=name, relative_error=error, psnr_db=psnr(*pixels))


def _component_line(row: ComponentChange) -> str:
    error = "not run" if row.relative_error is None else f"{row.relative_error:.1e}"
    return f"{row.component:<20}{error:>9}{row.bytes_before / 1e6:>10.1f} MB{row.bytes_after / 1e6:>10.1f} MB"


def _drawing_line(row: DrawingChange) -> str:
    return f"{row.drawing:<20}{row.relative_error:>9.1e}  {'same' if row.psnr_db is None else f'{row.psnr_db:.1f} dB'}"
