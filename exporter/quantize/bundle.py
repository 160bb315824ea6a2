"""Makes a smaller bundle of a bundle: schemes.py says how, rounding.py rounds, rewrite.py rewrites.

The graphs in fp32 are rewritten, with their twins for OpenVINO; the rounded weights go into one new file beside them, and
what is unchanged is linked. Works on a bundle; needs no checkpoint and no PyTorch.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx_ir as ir

from ...runtime.bundle import Bundle
from ...runtime.errors import ExportError
from ...runtime.files import file_hash, header_hash
from ...runtime.manifest import MANIFEST, FileSpec, GraphSpec, Manifest
from ..weights.placement import place
from ..weights.tensor_file import NewTensor, write_tensors
from .calibration import PRECISION, Calibration, Progress, calibration_of, observe_inputs
from .linears import Group, find_linears, make_group, new_tensors
from .report import QuantizationReport, Scoring, measure
from .rewrite import rewrite, separate
from .schemes import SCHEMES, Scheme

WEIGHTS = "quantized.safetensors"
REPORT = "quantization.json"
TOOL = "quantized"
"""The scheme's place in the manifest's `tools`."""
COMPUTED_BYTES = 4


def quantize_bundle(
    bundle: str | Path,
    target: str | Path,
    scheme: str | Scheme,
    *,
    calibration: Calibration | None = None,
    score: Scoring | None = None,
    progress: Progress = lambda what, done, total: None,
) -> QuantizationReport:
    """Make the bundle `target`: like `bundle`, its fp32 graphs by the scheme (a name in SCHEMES). What is unchanged is linked.

    calibration: what is drawn to see activations and to compare; by default what the bundle suggests. score: judges the pictures
    of both. Returns what was lost and won, as `quantization.json` says it. Raises ExportError where `target` exists, `bundle` was
    quantized before or has no fp32 graphs, or the disk is full.
    """
    chosen = _scheme(scheme)
    opened, target = Bundle.open(bundle), Path(target)
    _check(opened, target, chosen)
    calibration = calibration or calibration_of(opened)
    staging = Path(f"{target}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        _link_files(opened, staging)
        models = _quantize(opened, chosen, staging, calibration, progress)
        manifest = _manifest(opened, _write_graphs(opened, models, staging), chosen, staging)
        report = measure(opened, Bundle(staging, manifest), [*models], chosen.name, calibration, progress, score)
        (staging / REPORT).write_text(report.to_json(), encoding="utf-8")
        manifest = replace(manifest, files=(*manifest.files, _file_spec(staging / REPORT)))
        (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        os.rename(staging, target)
    except OSError as error:
        raise ExportError(f"can't write {error.filename or str(staging)!r}: {error.strerror or error}") from error
    return report


def _scheme(scheme: str | Scheme) -> Scheme:
    if isinstance(scheme, Scheme):
        return scheme
    if scheme not in SCHEMES:
        known = "; ".join(f"{entry.name} ({entry.help})" for entry in SCHEMES.values())
        raise ExportError(f"scheme {scheme!r} is unknown; choose {known}")
    return SCHEMES[scheme]


def _check(bundle: Bundle, target: Path, scheme: Scheme) -> None:
    if target.exists():
        raise ExportError(f"{str(target)!r} exists: choose another name")
    before = bundle.manifest.tools.get(TOOL)
    if before is not None:
        raise ExportError(
            f"{str(bundle.path)!r} is {before} already: it was quantized before; take the bundle it was made from"
        )
    held = {graph.component for graph in bundle.manifest.graphs if graph.precision == PRECISION}
    missing = [name for name in scheme.components if name not in held]
    if missing:
        raise ExportError(
            f"{str(bundle.path)!r} has no {missing[0]} graph in {PRECISION}: export it with --precision {PRECISION}"
        )


def _link_files(bundle: Bundle, staging: Path) -> None:
    graphs = [name for graph in bundle.manifest.graphs for name in (graph.file, graph.inlined) if name is not None]
    for name in (*graphs, *(spec.file for spec in bundle.manifest.files)):
        place(bundle.path / name, staging / name)


def _quantize(
    bundle: Bundle, scheme: Scheme, staging: Path, calibration: Calibration, progress: Progress
) -> dict[str, ir.Model]:
    """The scheme's components as rewritten graphs, whose rounded weights lie in `staging`."""
    seen = {}
    if scheme.calibrated:
        seen = observe_inputs(bundle, staging, scheme.calibrated, calibration, progress, scheme.weighs_inputs)
    models = {name: ir.load(bundle.path / bundle.graph(name, PRECISION).file) for name in scheme.components}
    groups = {
        name: [
            make_group(linears, scheme.components[name], scheme, seen.get(name, {})) for linears in find_linears(model)
        ]
        for name, model in models.items()
    }
    locations = write_tensors(staging / WEIGHTS, _tensors(groups, progress))
    for name, model in models.items():
        rewrite(model, groups[name], locations, staging)
    return models


def _tensors(groups: Mapping[str, list[Group]], progress: Progress) -> dict[str, NewTensor]:
    """All that is written; `progress` hears of each weight when its turn comes."""
    found = {
        name: tensor for members in groups.values() for group in members for name, tensor in new_tensors(group).items()
    }
    order = {name: index for index, name in enumerate(found)}

    def told(name: str, tensor: NewTensor) -> NewTensor:
        def values() -> np.ndarray:
            progress("rounding weights", order[name], len(order))
            return tensor.values()

        return replace(tensor, values=values)

    return {name: told(name, tensor) for name, tensor in found.items()}


def _write_graphs(bundle: Bundle, models: Mapping[str, ir.Model], staging: Path) -> dict[str, GraphSpec]:
    """The rewritten graphs and their twins without functions; their entries by file. Takes the models apart."""
    changed = {}
    for name, model in models.items():
        spec = bundle.graph(name, PRECISION)
        _write(staging / spec.file, ir.to_proto(model))
        if spec.inlined is not None:
            separate(model)
            _write(staging / spec.inlined, onnx.inliner.inline_local_functions(ir.to_proto(model)))
        changed[spec.file] = _graph_spec(spec, model, staging)
    return changed


def _write(path: Path, proto: onnx.ModelProto) -> None:
    path.unlink()  # a link: writing into it would change the bundle it came from
    path.write_bytes(proto.SerializeToString())


def _graph_spec(spec: GraphSpec, model: ir.Model, staging: Path) -> GraphSpec:
    stored = [value.const_value for value in model.graph.initializers.values()]
    weights = [tensor for tensor in stored if isinstance(tensor, ir.ExternalTensor)]
    rounded = sum(tensor.nbytes for tensor in weights if tensor.location == WEIGHTS)
    return replace(
        spec,
        sha256=file_hash(staging / spec.file),
        inlined_sha256=None if spec.inlined is None else file_hash(staging / spec.inlined),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
        resident_bytes=rounded + sum(tensor.size * COMPUTED_BYTES for tensor in weights if tensor.location != WEIGHTS),
        rounded_bytes=rounded,
    )


def _manifest(bundle: Bundle, changed: Mapping[str, GraphSpec], scheme: Scheme, staging: Path) -> Manifest:
    graphs = tuple(changed.get(spec.file, spec) for spec in bundle.manifest.graphs)
    files = (*bundle.manifest.files, _file_spec(staging / WEIGHTS))
    return replace(bundle.manifest, graphs=graphs, files=files, tools={**bundle.manifest.tools, TOOL: scheme.name})


def _file_spec(path: Path) -> FileSpec:
    return FileSpec(
        file=path.name,
        size_bytes=path.stat().st_size,
        sha256=file_hash(path),
        header_sha256=header_hash(path) if path.suffix == ".safetensors" else None,
    )
