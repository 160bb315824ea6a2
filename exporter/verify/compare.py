"""A bundle beside the reference: each component on the same inputs, then whole drawings from the same noise.

Loads one component of each side at a time for the first, and what `memory_limit_bytes` allows for the second. A bundle that a
LoRA was merged into is compared with the checkpoint as it is, and so differs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...runtime.backends import Backend, open_backend, resident_bytes
from ...runtime.bundle import Bundle
from ...runtime.pipeline import Pipeline
from ...runtime.request import Request, Result
from ..checkpoint import Checkpoint
from ..components import COMPONENTS, Component
from .difference import Difference, difference, psnr
from .torch_backend import TorchBackend

DRAWING_TOLERANCE = {"fp32": 1e-3, "fp16": 1.25e-2, "bf16": 1e-1}
"""The largest relative error (of the L2 norm) of a drawing's latents.

For 16 bits, three times the worst that two tiny checkpoints (three layers) showed on an engine that rounds after each node,
drawing and editing in 1 to 12 steps: 3.1e-2 in bf16 and, with three more bits, an eighth of that in fp16. Three times,
because rounding adds up like the root of the depth, and the published transformer is ten times deeper.
"""

PROMPT = "a red cube on a wooden table"

Progress = Callable[[str, int, int], None]
"""Called with what is being compared, how many pieces are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A whole comparison, components first."""

    checkpoint: str
    bundle: str
    backend: str
    precision: str
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = ()
    """What was not compared, and why."""

    @property
    def within_tolerance(self) -> bool:
        """Whether everything is."""
        return all(difference.within_tolerance for difference in self.differences)

    def table(self) -> str:
        """The report as text, a line each."""
        head = f"{'':<22}{'max':>10}{'mean':>10}{'relative':>10}{'allowed':>10}{'cosine':>12}{'PSNR':>9}"
        return "\n".join((head, *map(_line, self.differences), *self.notes))

    def to_json(self) -> str:
        """The report as JSON; what is not finite is null."""
        rows = [{**asdict(row), "within_tolerance": row.within_tolerance} for row in self.differences]
        finite = [{key: _finite(value) for key, value in row.items()} for row in rows]
        told = {**asdict(self), "differences": finite, "within_tolerance": self.within_tolerance}
        return json.dumps(told, indent=1, allow_nan=False) + "\n"


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
    progress: Progress = lambda what, done, total: None,
) -> Report:
    """Compare a bundle on a backend with the checkpoint's reference in float32.

    The drawings have `steps` steps: one from text alone and one with a reference image of height_px × width_px.
    memory_limit_bytes: for each side's open weights while drawing. Raises ExportError for the checkpoint, BundleError and
    BackendError for the bundle, RequestError for the drawings' parameters. An engine that was built ahead is held against ONNX
    Runtime as well, see compare_engines.py.
    """
    requests = _requests(steps, height_px, width_px)
    source, opened = Checkpoint.open(checkpoint), Bundle.open(bundle)  # in the order they are given: two folders swap easily
    engine = open_backend(opened, backend, precision, threads, memory_limit_bytes)
    total = len(COMPONENTS) + len(requests)
    differences: list[Difference] = []
    notes: list[str] = []
    for done, component in enumerate(COMPONENTS):
        progress(component.name, done, total)
        if hasattr(engine, "profiles"):
            from .compare_engines import engine_differences

            found = engine_differences(component, source, opened, engine, threads)
            differences, notes = [*differences, *found.differences], [*notes, *found.notes]
        else:
            differences.append(_compare_component(component, source, engine))
    for done, (name, request) in enumerate(requests.items(), len(COMPONENTS)):
        progress(name, done, total)
        reference = TorchBackend(source)
        as_reference = _of_precision(opened, engine.graph_precision, reference.precision)
        wanted = _draw(Pipeline(as_reference, reference, memory_limit_bytes), request)
        given = _draw(Pipeline(opened, engine, memory_limit_bytes), request)
        differences.append(_compare_drawings(name, wanted, given, DRAWING_TOLERANCE[engine.precision]))
    return Report(
        checkpoint=str(checkpoint),
        bundle=str(bundle),
        backend=engine.name,
        precision=engine.precision,
        differences=tuple(differences),
        notes=tuple(notes),
    )


def _requests(steps: int, height_px: int, width_px: int) -> dict[str, Request]:
    rows, columns = np.mgrid[0:height_px, 0:width_px]
    picture = np.stack([rows * 255 // height_px, columns * 255 // width_px, (rows + columns) % 256], -1)
    text = Request(prompt=PROMPT, steps=steps, height_px=height_px, width_px=width_px)
    image = Image.fromarray(picture.astype(np.uint8))
    return {"text to image": text, "image editing": replace(text, images=(image,), image_guidance=2.0)}


def _compare_component(component: Component, source: Checkpoint, engine: Backend) -> Difference:
    feeds = component.sample(source.config_of(component))
    wanted = _outputs(TorchBackend(source), component, feeds)  # its weights are freed before the engine loads its own
    given = _outputs(engine, component, feeds)
    tolerance = component.tolerance[engine.precision]
    rows = [difference(component.name, "component", wanted[name], given[name], tolerance) for name in wanted]
    return max(rows, key=lambda row: math.inf if math.isnan(row.relative_error) else row.relative_error)


def _outputs(backend: Backend, component: Component, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: backend.to_host(array) for name, array in backend.open(component.name).run(feeds).items()}


def _draw(pipeline: Pipeline, request: Request) -> Result:
    with pipeline:
        return pipeline.generate(request)


def _compare_drawings(name: str, wanted: Result, given: Result, tolerance: float) -> Difference:
    row = difference(name, "drawing", wanted.latents, given.latents, tolerance)
    return replace(row, psnr_db=psnr(_pixels(wanted), _pixels(given)))


def _pixels(result: Result) -> np.ndarray:
    return np.stack([np.asarray(image) for image in result.images])


def _of_precision(bundle: Bundle, precision: str, wanted: str) -> Bundle:
    """The bundle as if it held `wanted`, for sizes that the memory limit needs: the reference computes in no graph's type."""
    if precision == wanted:
        return bundle
    graphs = tuple(
        replace(graph, precision=wanted, resident_bytes=resident_bytes(graph, wanted))
        for graph in bundle.manifest.graphs
        if graph.precision == precision
    )
    return Bundle(bundle.path, replace(bundle.manifest, graphs=graphs))


def _line(row: Difference) -> str:
    same = row.kind == "drawing" and row.psnr_db is None
    psnr = "same" if same else "" if row.psnr_db is None else f"{row.psnr_db:.1f} dB"
    mark = "" if row.within_tolerance else "  too far"
    errors = f"{row.max_error:>10.1e}{row.mean_error:>10.1e}{row.relative_error:>10.1e}{row.tolerance:>10.0e}"
    return f"{row.name:<22}{errors}{row.cosine:>12.8f}{psnr:>9}{mark}"


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value
