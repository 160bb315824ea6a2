"""Quantizes a bundle: writes a smaller one with rounded weights.

The graphs of every precision are rewritten, with their twins without functions; the rounded weights go into one new file beside
them, and unchanged files are linked. Calibration and errors run on the fp32 graphs. Works on a bundle; needs no checkpoint and no
PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...runtime.bundle import Bundle
from ...runtime.errors import ExportError
from ...runtime.files.safetensors_header import TensorLocation
from ...runtime.files.writing import write_whole
from ...runtime.manifest import GraphSpec, Manifest
from ...runtime.progress import Progress, no_progress
from ..bundle_writer import disk_errors, file_spec, write_manifest
from ..graph_writer import complete_graph_spec, write_graph, write_inlined_graph
from ..staging import Work, open_staging, prepare_target
from ..weights.placement import Copies, place_all
from ..weights.tensor_file import NewTensor, write_tensors
from .calibration import PRECISION, Calibration, calibration_of
from .groups import Group, make_group, new_tensors
from .input_statistics import InputStatistics, collect_statistics
from .linears import find_linears
from .report import QuantizationReport, Scoring, measure
from .rewrite import StoredWeights, rewrite
from .schemes import SCHEMES, Scheme

WEIGHTS = "quantized.safetensors"
REPORT = "quantization.json"
TOOL = "quantized"
"""The scheme's place in the manifest's `tools`."""


def quantize_bundle(
    bundle: str | Path,
    target: str | Path,
    scheme: str | Scheme,
    *,
    calibration: Calibration | None = None,
    score: Scoring | None = None,
    progress: Progress = no_progress,
) -> QuantizationReport:
    """Make the bundle `target`: `bundle` with its graphs quantized by the scheme (a name in SCHEMES, or one of your own).

    calibration: the drawings that input statistics and errors are measured on; by default the bundle's own.
    score: judges both bundles' pictures.
    Returns the report that is written as `quantization.json`. Raises ExportError where `target` exists, `bundle` was quantized
    before or has no fp32 graphs, or the disk is full.
    """
    scheme = _scheme(scheme)
    opened, target = Bundle.open(bundle), prepare_target(target, force=None)
    _check(opened, scheme)
    calibration = calibration or calibration_of(opened)
    with disk_errors(target):
        work = Work("quantize", target, str(bundle), [opened.path], {"scheme": scheme.name, "source": str(opened.path.resolve())})
        with open_staging(work) as staging:
            report = _write_bundle(opened, scheme, staging.bundle, calibration, score, progress)
            staging.publish()
    return report


def _write_bundle(
    opened: Bundle, scheme: Scheme, folder: Path, calibration: Calibration, score: Scoring | None, progress: Progress
) -> QuantizationReport:
    """Write the whole bundle."""
    copied = _place_files(opened, folder)
    groups = _groups(opened, scheme, folder, calibration, progress)
    locations = write_tensors(folder / WEIGHTS, _tensors(opened, groups, progress))
    manifest = _manifest(opened, _write_graphs(opened, groups, locations, folder), scheme, folder)
    report = measure(opened, Bundle(folder, manifest), [*groups], scheme.name, calibration, progress, score)
    write_whole(folder / REPORT, report.to_json())
    write_manifest(folder, replace(manifest, files=(*manifest.files, file_spec(folder, REPORT))))
    return replace(report, copied=copied)


def _scheme(scheme: str | Scheme) -> Scheme:
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        known = ", ".join(SCHEMES)
        raise ExportError(f"scheme {scheme!r} is unknown; choose {known}")
    return SCHEMES[scheme]


def _check(bundle: Bundle, scheme: Scheme) -> None:
    before = bundle.manifest.tools.get(TOOL)
    if before is not None:
        raise ExportError(
            f"{str(bundle.path)!r} is {before} already: it was quantized before; take the bundle it was made from"
        )
    for name in (WEIGHTS, REPORT):
        if name in {spec.file for spec in bundle.manifest.files}:
            raise ExportError(f"{str(bundle.path)!r} lists a file {name!r}, which quantizing writes: export it again")
    present = {graph.component for graph in bundle.manifest.graphs if graph.precision == PRECISION}
    missing = [name for name in scheme.components if name not in present]
    if missing:
        raise ExportError(
            f"{str(bundle.path)!r} has no {missing[0]} graph in {PRECISION}: export it with --precision {PRECISION}"
        )


def _place_files(bundle: Bundle, staging: Path) -> Copies:
    """Put the bundle's files into the new one. Returns those that were copied."""
    graphs = [name for graph in bundle.manifest.graphs for name in (graph.file, graph.inlined) if name is not None]
    names = (*graphs, *(spec.file for spec in bundle.manifest.files))
    return place_all((bundle.path / name, staging / name) for name in names)


def _groups(
    bundle: Bundle, scheme: Scheme, staging: Path, calibration: Calibration, progress: Progress
) -> dict[str, list[Group]]:
    """The groups of Linears of the scheme's components, from their fp32 graphs."""
    statistics: dict[str, dict[str, InputStatistics]] = {}
    if components := scheme.calibrated_components:
        statistics = collect_statistics(bundle, staging, components, calibration, progress, scheme.compensates_errors)
    models = {name: ir.load(bundle.path / bundle.graph(name, PRECISION).file) for name in scheme.components}
    return {
        name: [
            make_group(linears, scheme.components[name], scheme, statistics.get(name, {}))
            for linears in find_linears(model)
        ]
        for name, model in models.items()
    }


def _tensors(bundle: Bundle, groups: Mapping[str, list[Group]], progress: Progress) -> dict[str, NewTensor]:
    """The new tensors of all groups. Writing one calls `progress`."""
    tensors: dict[str, NewTensor] = {}
    for component, members in groups.items():
        precisions = [graph.precision for graph in bundle.manifest.graphs if graph.component == component]
        for group in members:
            tensors |= new_tensors(group, precisions)

    def with_progress(index: int, tensor: NewTensor) -> NewTensor:
        def values() -> np.ndarray:
            progress(index, len(tensors), "rounding weights")
            return tensor.values()

        return replace(tensor, values=values)

    return {name: with_progress(index, tensor) for index, (name, tensor) in enumerate(tensors.items())}


def _write_graphs(
    bundle: Bundle, groups: Mapping[str, list[Group]], locations: Mapping[str, TensorLocation], staging: Path
) -> dict[str, GraphSpec]:
    """Write the rewritten graphs and their twins without functions; returns their entries by file."""
    specs = {}
    for spec in bundle.manifest.graphs:
        if spec.component not in groups:
            continue
        weights = StoredWeights(locations=locations, bundle=staging, precision=spec.precision)
        model = ir.load(bundle.path / spec.file)
        rewrite(model, groups[spec.component], weights)
        write_graph(staging / spec.file, model)
        if spec.inlined is not None:
            write_inlined_graph(staging / spec.inlined, model)
        specs[spec.file] = complete_graph_spec(spec, staging, model, spec.precision, WEIGHTS)
    return specs


def _manifest(bundle: Bundle, changed: Mapping[str, GraphSpec], scheme: Scheme, staging: Path) -> Manifest:
    graphs = tuple(changed.get(spec.file, spec) for spec in bundle.manifest.graphs)
    files = (*bundle.manifest.files, file_spec(staging, WEIGHTS))
    return replace(bundle.manifest, graphs=graphs, files=files, tools={**bundle.manifest.tools, TOOL: scheme.name})
