"""Looking at what comes into Linears while a bundle draws: texts, and edits of the pictures that it drew, in every branch.

Runs the pipeline on ONNX Runtime with graphs that also give the largest absolute value and the mean square of each input, so
that what is kept is two numbers an input; where it is asked for, all inputs' products as well. Knows nothing of how a weight is
rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...runtime.backends import Backend, open_backend
from ...runtime.backends.machine import usable_memory_bytes
from ...runtime.bundle import CALIBRATION, Bundle
from ...runtime.errors import ExportError
from ...runtime.files import file_hash
from ...runtime.manifest import GraphSpec, TensorSpec
from ...runtime.pipeline import Pipeline, check_limits
from ...runtime.request import Request
from .linears import InputStatistics, find_linears
from .observer import Arrays, ObservedBackend

PROMPTS = (
    "a red cube on a wooden table, soft light from a window",
    "a photograph of a grey cat asleep on a blue sofa",
    "an old fishing boat in a harbour at sunset, oil painting",
    "a poster with the word HELLO in large white letters",
    "three green apples and a glass of water on a white plate",
    "a street in the rain at night, neon signs, people with umbrellas",
)
SIZE_PX = 256
BACKEND, PRECISION = "ort-cpu", "fp32"
LARGEST, MEAN_SQUARE, PRODUCTS = "largest", "mean_square", "products"
MOST_INPUTS_FOR_PRODUCTS = 4096
"""OmniGen2 has 2,520 and 2,048 of them, whose products take 25 and 17 MB; inside its feed-forward layers some 10,000: 400 MB."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many pieces are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What is drawn to see a bundle's inputs: each prompt from noise, then as an instruction for the picture before.

    size_px: height and width. steps: of each drawing. Raises ExportError where there is no prompt, RequestError or BackendError
    where a number is out of range.
    """

    prompts: tuple[str, ...] = PROMPTS
    size_px: int = SIZE_PX
    steps: int = 4
    memory_limit_bytes: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ExportError("there is no prompt to calibrate with: give at least one")
        check_limits(memory_limit_bytes=self.memory_limit_bytes, threads=self.threads)
        self.request(self.prompts[0])

    def request(self, prompt: str, seed: int = 0) -> Request:
        """A drawing of a prompt."""
        return Request(prompt=prompt, height_px=self.size_px, width_px=self.size_px, steps=self.steps, seed=seed)

    def open(self, bundle: Bundle) -> Backend:
        """The backend that everything is measured on, for an opened bundle."""
        return open_backend(bundle, BACKEND, PRECISION, self.threads, self.memory_limit_bytes)

    def draw(
        self, pipeline: Pipeline, prompts: Sequence[str], progress: Callable[[int], None] = lambda done: None
    ) -> None:
        """Draw each prompt, then edit that picture by the next one (after the last comes the first)."""
        for index, prompt in enumerate(prompts):
            picture = pipeline.generate(self.request(prompt, index)).images[0]
            instruction = prompts[(index + 1) % len(prompts)]
            edit = replace(self.request(instruction, index), images=(picture,), image_guidance=2.0)
            pipeline.generate(edit)
            progress(index + 1)


def calibration_of(bundle: Bundle, **given: Any) -> Calibration:
    """The bundle's own prompts if it has any, at its own size if that is small; `given` instead, where it isn't None.

    Where all its graphs' weights in float32 would take more than half of the memory here, that half is their limit.
    """
    file = bundle.path / CALIBRATION
    own = read_prompts(file) if file.is_file() else PROMPTS
    size_px = min(SIZE_PX, bundle.manifest.vae.sample_px)
    told = {name: value for name, value in given.items() if value is not None}
    return Calibration(**{"prompts": own, "size_px": size_px, "memory_limit_bytes": _memory_limit(bundle), **told})


def _memory_limit(bundle: Bundle) -> int | None:
    half = usable_memory_bytes() // 2
    weights = sum(graph.resident_bytes for graph in bundle.manifest.graphs if graph.precision == PRECISION)
    return half if weights > half else None


def read_prompts(file: Path) -> tuple[str, ...]:
    """A text file's lines, empty ones left out. Raises ExportError where it can't be read or holds none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ExportError(f"can't read prompts from {str(file)!r}: {reason}") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ExportError(f"{str(file)!r} holds no prompt: write one a line")
    return prompts


def observe_inputs(
    bundle: Bundle,
    folder: Path,
    components: Sequence[str],
    calibration: Calibration,
    progress: Progress,
    with_products: bool = False,
) -> dict[str, dict[str, InputStatistics]]:
    """What came into the Linears of `components`: by component and by the name of the first weight that reads the value.

    folder: where the bundle's weights lie as well; the graphs that look are written there, and removed again.
    """
    specs = {
        name: _write_looking_graph(bundle.graph(name, PRECISION), bundle.path, folder, with_products)
        for name in components
    }
    graphs = tuple(
        specs.get(graph.component, graph) if graph.precision == PRECISION else graph for graph in bundle.manifest.graphs
    )
    looking = Bundle(folder, replace(bundle.manifest, graphs=graphs))
    seen = {name: _Seen() for name in components}
    backend = calibration.open(looking)

    def observer(component: str, feeds: Arrays, outputs: Arrays) -> None:
        if component in seen:
            seen[component].add({name: backend.to_host(outputs[name]) for name in _statistics_of(outputs)})

    with Pipeline(looking, ObservedBackend(backend, observer), calibration.memory_limit_bytes) as pipeline:
        prompts = calibration.prompts
        calibration.draw(pipeline, prompts, lambda done: progress("looking at activations", done, len(prompts)))
    for spec in specs.values():
        (folder / spec.file).unlink()
    return {name: one.statistics() for name, one in seen.items()}


class _Seen:
    """What one component's runs gave so far."""

    def __init__(self) -> None:
        self._largest: dict[str, np.ndarray] = {}
        self._sums: dict[str, dict[str, np.ndarray]] = {MEAN_SQUARE: {}, PRODUCTS: {}}
        self._runs = 0

    def add(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._runs += 1
        for full, array in arrays.items():
            kind, _, name = full.partition(":")
            if kind == LARGEST:
                self._largest[name] = np.maximum(self._largest.get(name, 0), array)
            else:
                self._sums[kind][name] = self._sums[kind].get(name, 0) + array

    def statistics(self) -> dict[str, InputStatistics]:
        means = {
            kind: {name: (total / self._runs).astype(np.float32) for name, total in sums.items()}
            for kind, sums in self._sums.items()
        }
        return {
            name: InputStatistics(
                largest=largest, mean_square=means[MEAN_SQUARE][name], products=means[PRODUCTS].get(name)
            )
            for name, largest in self._largest.items()
        }


def _statistics_of(outputs: Arrays) -> list[str]:
    return [name for name in outputs if name.partition(":")[0] in (LARGEST, MEAN_SQUARE, PRODUCTS)]


def _write_looking_graph(spec: GraphSpec, source: Path, folder: Path, with_products: bool = False) -> GraphSpec:
    """The component's graph with outputs for what comes into its Linears, beside the others; returns its entry."""
    model = ir.load(source / spec.file)
    outputs = dict(spec.outputs)
    for linears in find_linears(model):
        value, inputs = linears[0].node.inputs[0], linears[0].weight.shape[1]
        assert value is not None
        products = with_products and inputs <= MOST_INPUTS_FOR_PRODUCTS
        for kind, reduced in _reductions(model.graph, value, inputs, products).items():
            shape = (inputs, inputs) if kind == PRODUCTS else (inputs,)
            reduced.name = f"{kind}:{linears[0].name}"
            reduced.shape, reduced.dtype = ir.Shape(shape), ir.DataType.FLOAT
            model.graph.outputs.append(reduced)
            outputs[reduced.name] = TensorSpec(dtype="float32", shape=shape)
    file = f"looking.{spec.file}"
    (folder / file).write_bytes(ir.to_proto(model).SerializeToString())
    return replace(spec, file=file, sha256=file_hash(folder / file), outputs=outputs, inlined=None, inlined_sha256=None)


def _reductions(graph: ir.Graph, value: ir.Value, inputs: int, with_products: bool) -> dict[str, ir.Value]:
    """Over everything but the last axis: the largest absolute value, the mean square and the mean products."""
    shape = ir.node("Constant", [], attributes={"value_ints": [-1, inputs]})
    first = ir.node("Constant", [], attributes={"value_ints": [0]})
    rows = ir.node("Reshape", [value, shape.outputs[0]])
    size, square = ir.node("Abs", rows.outputs), ir.node("Mul", [*rows.outputs, *rows.outputs])
    largest = ir.node("ReduceMax", [*size.outputs, *first.outputs], attributes={"keepdims": 0})
    mean = ir.node("ReduceMean", [*square.outputs, *first.outputs], attributes={"keepdims": 0})
    graph.extend([shape, first, rows, size, square, largest, mean])
    found = {LARGEST: largest.outputs[0], MEAN_SQUARE: mean.outputs[0]}
    if with_products:
        turned = ir.node("Transpose", rows.outputs, attributes={"perm": [1, 0]})
        total = ir.node("MatMul", [*turned.outputs, *rows.outputs])
        size_of = ir.node("Shape", rows.outputs, attributes={"start": 0, "end": 1})
        count = ir.node("Cast", size_of.outputs, attributes={"to": ir.DataType.FLOAT.value})
        products = ir.node("Div", [*total.outputs, *count.outputs])
        graph.extend([turned, total, size_of, count, products])
        found[PRODUCTS] = products.outputs[0]
    return found
