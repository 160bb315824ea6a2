"""Compares a bundle with the reference: each component on the same inputs, then whole drawings from the same noise.

Components load one at a time on each side; drawings load as many as `memory_limit_bytes` allows. A bundle with a merged LoRA
differs: the checkpoint has no LoRA.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...runtime.backends import Backend, open_backend, resident_bytes
from ...runtime.bundle import Bundle
from ...runtime.errors import BundleError, Cancelled
from ...runtime.manifest import Manifest
from ...runtime.pipeline import Pipeline
from ...runtime.progress import Progress, no_progress
from ...runtime.request import Request, Result
from ..checkpoint import Checkpoint
from ..components import COMPONENTS, Component
from .difference import Difference, difference, psnr, worst
from .torch_backend import TorchBackend

DRAWING_TOLERANCE = {"fp32": 1e-3, "fp16": 1.25e-2, "bf16": 1e-1}
"""The largest relative error (of the L2 norm) of a drawing's latents, by precision.

In 16 bits it is three times the worst error of two tiny checkpoints (three layers), measured on a backend that rounds after
each node, drawing and editing in 1 to 12 steps. That error was 3.1e-2 in bf16; fp16 has three more bits, so an eighth of it.
The factor is three because rounding errors grow like the root of the depth, and the published transformer is ten times deeper.
"""

NOT_OF_THE_GRAPHS = ("sample_px", "latent_rgb", "teacache_coefficients", "processor")
"""Numbers of a manifest that change no component: defaults, previews, and how pictures are read, which both sides take from the
bundle."""

PROMPT = "a red cube on a wooden table"


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole comparison.

    differences: the components first, then the drawings.
    notes: what was not compared, and why.
    """

    checkpoint: str
    bundle: str
    backend: str
    precision: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()

    @property
    def within_tolerance(self) -> bool:
        """Whether every difference is within its tolerance."""
        return all(difference.within_tolerance for difference in self.differences)

    def table(self) -> str:
        """The report as text, a line for each difference and note."""
        head = f"{'':<22}{'max':>10}{'mean':>10}{'relative':>10}{'allowed':>10}{'cosine':>12}{'PSNR':>9}"
        return "\n".join((head, *map(_line, self.differences), *self.notes))

    def to_json(self) -> str:
        """The report as JSON, with null for a number that isn't finite."""
        rows = [{**asdict(row), "within_tolerance": row.within_tolerance} for row in self.differences]
        finite = [{key: _finite(value) for key, value in row.items()} for row in rows]
        report = {**asdict(self), "differences": finite, "within_tolerance": self.within_tolerance}
        return json.dumps(report, indent=1, allow_nan=False) + "\n"


def compare(
    checkpoint: str | Path,
    bundle: str | Path,
    *,
    backend: str = "auto",
    precision: str = "auto",
    steps: int = 4,
    height_px: int = 64,
    width_px: int = 64,
    memory_limit_bytes: int | None = None,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Compare a bundle on a backend with the checkpoint's reference in float32.

    Draws twice in `steps` steps: from text alone, and with a reference image of height_px × width_px. The components of a backend
    with engines are compared with ONNX Runtime as well, see compare_engines.py.
    memory_limit_bytes: for each side's open weights while drawing.
    Raises ExportError for the checkpoint, BundleError and BackendError for the bundle (one that holds another model's numbers
    before anything is computed), RequestError for the drawings' parameters, and Cancelled where `progress` returned False.
    """
    requests = _requests(steps, height_px, width_px)
    source = Checkpoint.open(checkpoint)  # before the bundle, so that the message of swapped folders names the first argument
    opened = Bundle.open(bundle)
    _check_same_numbers(source.manifest, opened.manifest, str(checkpoint), str(bundle))
    engine = open_backend(opened, backend, precision, threads, memory_limit_bytes)
    total = len(COMPONENTS) + len(requests)
    differences: list[Difference] = []
    notes: list[str] = []
    for done, component in enumerate(COMPONENTS):
        _advance(progress, done, total, component.name)
        rows, component_notes = _compare_component(component, source, opened, engine, threads)
        differences += rows
        notes += component_notes
    for done, (name, request) in enumerate(requests.items(), len(COMPONENTS)):
        _advance(progress, done, total, name)
        differences.append(_compare_drawing(name, request, source, opened, engine, memory_limit_bytes))
    return Report(
        checkpoint=str(checkpoint),
        bundle=str(bundle),
        backend=engine.name,
        precision=engine.precision,
        differences=tuple(differences),
        notes=tuple(notes),
    )


def _advance(progress: Progress, done: int, total: int, name: str) -> None:
    if progress(done, total, name) is False:
        raise Cancelled(f"the comparison was stopped before {name}")


def _check_same_numbers(expected: Manifest, actual: Manifest, checkpoint: str, bundle: str) -> None:
    """Raises BundleError where a number that the graphs depend on is not the checkpoint's."""
    for part in ("transformer", "vae", "mllm", "scheduler", "vision"):
        ours, theirs = getattr(expected, part), getattr(actual, part)
        if ours is None or theirs is None:
            continue
        for name, value in asdict(ours).items():
            if name not in NOT_OF_THE_GRAPHS and (stored := asdict(theirs)[name]) != value:
                raise BundleError(
                    f"{bundle!r} is of another model: its {part}.{name} is {stored}, that of the checkpoint {checkpoint!r} "
                    f"is {value}; give the checkpoint that the bundle was exported from"
                )


def _requests(steps: int, height_px: int, width_px: int) -> dict[str, Request]:
    text = Request(prompt=PROMPT, steps=steps, height_px=height_px, width_px=width_px)
    rows, columns = np.mgrid[0:height_px, 0:width_px]
    pixels = np.stack([rows * 255 // height_px, columns * 255 // width_px, (rows + columns) % 256], -1)
    image = Image.fromarray(pixels.astype(np.uint8))
    return {"text to image": text, "image editing": replace(text, images=(image,), image_guidance=2.0)}


def _compare_component(
    component: Component, source: Checkpoint, bundle: Bundle, engine: Backend, threads: int | None
) -> tuple[Sequence[Difference], Sequence[str]]:
    """A component's differences, and notes on what was not compared."""
    if hasattr(engine, "profiles"):
        from .compare_engines import compare_engine

        comparison = compare_engine(component, source, bundle, engine, threads)
        return comparison.differences, comparison.notes
    feeds = component.sample(source.config_of(component))
    expected = _outputs(TorchBackend(source), component, feeds)  # its weights are freed before the engine loads its own
    actual = _outputs(engine, component, feeds)
    tolerance = component.tolerance[engine.precision]
    outputs = (difference(component.name, "component", expected[name], actual[name], tolerance) for name in expected)
    return [worst(outputs)], []


def _outputs(backend: Backend, component: Component, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: backend.to_host(array) for name, array in backend.open(component.name).run(feeds).items()}


def _compare_drawing(
    name: str, request: Request, source: Checkpoint, bundle: Bundle, engine: Backend, memory_limit_bytes: int | None
) -> Difference:
    reference = TorchBackend(source)
    reference_bundle = _with_precision(bundle, engine.graph_precision, reference.precision)
    expected = _draw(Pipeline(reference_bundle, reference, memory_limit_bytes), request)
    actual = _draw(Pipeline(bundle, engine, memory_limit_bytes), request)
    row = difference(name, "drawing", expected.latents, actual.latents, DRAWING_TOLERANCE[engine.precision])
    return replace(row, psnr_db=psnr(_pixels(expected), _pixels(actual)))


def _draw(pipeline: Pipeline, request: Request) -> Result:
    with pipeline:
        return pipeline.generate(request)


def _pixels(result: Result) -> np.ndarray:
    return np.stack([np.asarray(image) for image in result.images])


def _with_precision(bundle: Bundle, precision: str, target: str) -> Bundle:
    """The bundle with the graphs of `precision` declared as `target`: a memory limit then counts the reference's bytes."""
    if precision == target:
        return bundle
    graphs = tuple(
        replace(graph, precision=target, resident_bytes=resident_bytes(graph, target))
        for graph in bundle.manifest.graphs
        if graph.precision == precision
    )
    return Bundle(bundle.path, replace(bundle.manifest, graphs=graphs))


def _line(row: Difference) -> str:
    is_same = row.kind == "drawing" and row.psnr_db is None
    psnr = "same" if is_same else "" if row.psnr_db is None else f"{row.psnr_db:.1f} dB"
    mark = "" if row.within_tolerance else "  too far"
    errors = f"{row.max_error:>10.1e}{row.mean_error:>10.1e}{row.relative_error:>10.1e}{row.tolerance:>10.0e}"
    return f"{row.name:<22}{errors}{row.cosine:>12.8f}{psnr:>9}{mark}"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
