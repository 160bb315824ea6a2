"""Statistics of the values that Linears multiply, collected while a bundle runs its calibration drawings.

The graphs get outputs for the largest absolute value and the mean square of each input, two numbers an input; on request also
for the products of all inputs. Knows nothing of how a weight is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import Bundle
from ...runtime.files.hashes import file_hash
from ...runtime.manifest import GraphSpec, TensorSpec
from ...runtime.pipeline import Pipeline
from ...runtime.progress import Progress, no_progress
from ..graph_writer import write_graph
from .calibration import PRECISION, Calibration
from .linears import find_linears
from .observer import Arrays, ObservedBackend
from .rounding import Floats

LARGEST, MEAN_SQUARE, PRODUCTS = "largest", "mean_square", "products"
MOST_INPUTS_FOR_PRODUCTS = 4096
"""OmniGen2 has Linears of 2,520 and 2,048 inputs, whose products take 25 and 17 MB; those in feed-forward layers have some
10,000, whose products would take 400 MB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class InputStatistics:
    """Statistics of a Linear's K inputs over all runs.

    largest: (K,), the largest absolute value.
    mean_square: (K,).
    products: (K, K), the mean of x_i x_j; None without the request, or where K is above MOST_INPUTS_FOR_PRODUCTS.
    """

    largest: Floats
    mean_square: Floats
    products: Floats | None = None


class StatisticsCollector:
    """Accumulates one component's calibration outputs over its runs."""

    def __init__(self) -> None:
        self._largest: dict[str, np.ndarray] = {}
        self._sums: dict[str, dict[str, np.ndarray]] = {MEAN_SQUARE: {}, PRODUCTS: {}}
        self._runs = 0

    def add(self, outputs: Mapping[str, np.ndarray]) -> None:
        """Add a run's outputs, named "<kind>:<weight>"."""
        self._runs += 1
        for full_name, array in outputs.items():
            kind, _, name = full_name.partition(":")
            if kind == LARGEST:
                self._largest[name] = np.maximum(self._largest.get(name, 0), array)
            else:
                self._sums[kind][name] = self._sums[kind].get(name, 0) + array

    def statistics(self) -> dict[str, InputStatistics]:
        """The statistics by the name of the first weight that reads a value."""
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


def collect_statistics(
    bundle: Bundle,
    folder: Path,
    components: Sequence[str],
    calibration: Calibration,
    progress: Progress = no_progress,
    with_products: bool = False,
) -> dict[str, dict[str, InputStatistics]]:
    """The input statistics of the Linears of `components`, by component and by the name of the first weight that reads a value.

    folder: holds the bundle's weights as well; the calibration graphs are written there and removed again.
    """
    specs = {
        name: write_calibration_graph(bundle.graph(name, PRECISION), bundle.path, folder, with_products)
        for name in components
    }
    graphs = tuple(
        specs.get(graph.component, graph) if graph.precision == PRECISION else graph for graph in bundle.manifest.graphs
    )
    observed = Bundle(folder, replace(bundle.manifest, graphs=graphs))
    collectors = {name: StatisticsCollector() for name in components}
    backend = calibration.open(observed)

    def observer(component: str, feeds: Arrays, outputs: Arrays) -> None:
        if component in collectors:
            collectors[component].add({name: backend.to_host(outputs[name]) for name in _calibration_outputs(outputs)})

    with Pipeline(observed, ObservedBackend(backend, observer), calibration.memory_limit_bytes) as pipeline:
        calibration.draw(pipeline, calibration.prompts, progress)
    for spec in specs.values():
        (folder / spec.file).unlink()
    return {name: collector.statistics() for name, collector in collectors.items()}


def _calibration_outputs(outputs: Arrays) -> list[str]:
    return [name for name in outputs if name.partition(":")[0] in (LARGEST, MEAN_SQUARE, PRODUCTS)]


def write_calibration_graph(spec: GraphSpec, source: Path, folder: Path, with_products: bool = False) -> GraphSpec:
    """Write the component's graph from `source` into `folder` with outputs for its Linears' inputs; returns its entry."""
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
    file = f"calibration.{spec.file}"
    write_graph(folder / file, model)
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
    reductions = {LARGEST: largest.outputs[0], MEAN_SQUARE: mean.outputs[0]}
    if with_products:
        reductions[PRODUCTS] = _mean_products(graph, rows)
    return reductions


def _mean_products(graph: ir.Graph, rows: ir.Node) -> ir.Value:
    transposed = ir.node("Transpose", rows.outputs, attributes={"perm": [1, 0]})
    total = ir.node("MatMul", [*transposed.outputs, *rows.outputs])
    length = ir.node("Shape", rows.outputs, attributes={"start": 0, "end": 1})
    count = ir.node("Cast", length.outputs, attributes={"to": ir.DataType.FLOAT.value})
    products = ir.node("Div", [*total.outputs, *count.outputs])
    graph.extend([transposed, total, length, count, products])
    return products.outputs[0]
