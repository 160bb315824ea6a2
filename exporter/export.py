"""The whole export: a checkpoint goes in, a bundle comes out, or nothing does.

Everything is written into a folder beside the bundle, `<bundle>.partial`, which becomes the bundle by one rename. If the export
is killed, the next run of the same job finds the graphs that were done there and goes on.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import onnx
import onnx.inliner
import onnx_ir as ir

from ..plugins.omni_rope.torch_export import emit
from ..reference.safetensors_header import TensorLocation
from ..runtime.bundle import CALIBRATION
from ..runtime.dtypes import PRECISIONS
from ..runtime.errors import BundleError, ExportError
from ..runtime.files import file_hash, header_hash
from ..runtime.manifest import MANIFEST, FileSpec, GraphSpec, Manifest, TensorSpec
from .checkpoint import PARTS, Checkpoint
from .components import COMPONENTS, Component, Tensor
from .manifest import TOKENIZER, make_manifest, write_tokenizer
from .trace import ONNX_DTYPES, trace
from .weights.lora import check_lora, lora_file, merge_lora
from .weights.materialize import materialize
from .weights.placement import place
from .weights.zero_copy import attach_weights

TOOLS = ("omnigen2-rt", "torch", "onnx", "onnx-ir", "onnxscript")
JOB = "job.json"
DEFAULT_PRECISIONS = ("fp32", "bf16")  # what CPUs and what GPUs compute in
DTYPE_NAMES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many pieces are done, and how many there are."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A LoRA to merge: a safetensors file or a folder with one, and how strongly it counts. Raises ExportError."""

    path: Path
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ExportError(f"the LoRA's scale, {self.scale}, is not a finite number")


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export did. `copied`: weight files that had to be copied because no link was possible."""

    bundle: Path
    graphs: int
    resumed_graphs: int
    copied: tuple[str, ...]
    seconds: float


def export_bundle(
    checkpoint: str | Path,
    bundle: str | Path,
    *,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    lora: Lora | None = None,
    materialized: bool = False,
    force: bool = False,
    progress: Progress = lambda what, done, total: None,
) -> ExportReport:
    """Export a checkpoint (a directory or a Hugging Face id) to a bundle.

    materialized: also write the weights converted to each precision that isn't the stored one, so that a runtime can map
    them instead of converting at load. force: replace an existing bundle. Raises ExportError; then `bundle` is as it was.
    """
    started = time.monotonic()
    bundle = Path(bundle)  # drops a slash at the end, which would put the staging folder inside
    _check(bundle, precisions, force)
    opened = Checkpoint.open(checkpoint)
    _check_manifest(opened)
    if lora is not None:
        check_lora(lora.path, opened.locations["transformer"])
    staging = Path(f"{bundle}.partial")
    job = _describe(opened, precisions, lora, materialized)
    try:
        done = _resume(staging, job)
        progress("placing weights", 0, _pieces(precisions))
        copied, locations = _place_weights(opened, staging, lora)
        graphs = _export_graphs(opened, locations, staging, precisions, materialized, job, done, progress)
        progress("hashing weights", len(graphs), _pieces(precisions))
        write_tokenizer(opened, staging)
        if (opened.path / CALIBRATION).is_file():
            shutil.copyfile(opened.path / CALIBRATION, staging / CALIBRATION)
        manifest = make_manifest(opened, graphs, _files(staging), {tool: version(tool) for tool in TOOLS})
        (staging / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        (staging / JOB).unlink()
        _publish(staging, bundle)
    except OSError as error:
        raise ExportError(f"can't write {error.filename or str(staging)!r}: {error.strerror or error}") from error
    return ExportReport(
        bundle=bundle,
        graphs=len(graphs),
        resumed_graphs=len(done),
        copied=tuple(copied),
        seconds=time.monotonic() - started,
    )


def _check(bundle: Path, precisions: Sequence[str], force: bool) -> None:
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or not precisions:
        raise ExportError(f"precision {', '.join(unknown) or 'none'} is unknown; choose from {', '.join(PRECISIONS)}")
    if not bundle.exists():
        return
    if not force:
        raise ExportError(f"{str(bundle)!r} exists: choose another name, or replace it with --force")
    if not (bundle / MANIFEST).is_file():
        raise ExportError(f"{str(bundle)!r} exists and is not a bundle, so --force won't replace it")


def _check_manifest(checkpoint: Checkpoint) -> None:
    """What the manifest takes from the checkpoint's files: what they lack shows here, not after the last graph."""
    try:
        Manifest.from_json(make_manifest(checkpoint, (), (), {}).to_json(), "the manifest")
    except (BundleError, AttributeError, TypeError, ValueError) as error:
        reason = str(error).removesuffix(": export the bundle again")
        raise ExportError(f"a JSON file of {checkpoint.path} has a value of the wrong type: {reason}") from error


def _pieces(precisions: Sequence[str]) -> int:
    return len(precisions) * len(COMPONENTS)


def _describe(checkpoint: Checkpoint, precisions: Sequence[str], lora: Lora | None, materialized: bool) -> dict[str, object]:
    """What makes two exports the same job. Weight files count by place, size and header, like in the manifest."""
    weights = {str(path): [path.stat().st_size, header_hash(path)] for path in checkpoint.weight_files()}
    configs = {part: repr(getattr(checkpoint, part)) for part in (*PARTS, "vision")}
    return {
        "weights": weights,
        "configs": configs,
        "precisions": list(precisions),
        "lora": None if lora is None else [str(lora.path), lora.scale, file_hash(lora_file(lora.path))],
        "materialized": materialized,
        "tools": {tool: version(tool) for tool in TOOLS},
    }


def _resume(staging: Path, job: dict[str, object]) -> dict[str, str]:
    """The finished graphs (file name -> hash) of an earlier, killed run of the same job; otherwise an empty folder."""
    try:
        record = json.loads((staging / JOB).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if record is None or record["job"] != job:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        return {}
    done: dict[str, str] = record["done"]
    return {name: digest for name, digest in done.items() if (staging / name).is_file() and file_hash(staging / name) == digest}


def _place_weights(
    checkpoint: Checkpoint, staging: Path, lora: Lora | None
) -> tuple[list[str], dict[str, dict[str, TensorLocation]]]:
    """Weight files into the bundle; the tensors' places there, by part and parameter name."""
    copied = []
    targets = {}
    for path in checkpoint.weight_files():
        targets[path] = staging / path.parent.name / path.name
        if place(path, targets[path]):
            copied.append(f"{path.parent.name}/{path.name}")
    locations = {
        part: {name: _moved(found, targets[found.path]) for name, found in tensors.items()}
        for part, tensors in checkpoint.locations.items()
    }
    if lora is not None:
        target = staging / "transformer" / "merged_lora.safetensors"
        locations["transformer"] = merge_lora(lora.path, lora.scale, locations["transformer"], target)
    return copied, locations


def _moved(location: TensorLocation, path: Path) -> TensorLocation:
    return TensorLocation(
        path=path, dtype=location.dtype, shape=location.shape, offset=location.offset, nbytes=location.nbytes
    )


def _export_graphs(
    checkpoint: Checkpoint,
    locations: dict[str, dict[str, TensorLocation]],
    staging: Path,
    precisions: Sequence[str],
    materialized: bool,
    job: dict[str, object],
    done: dict[str, str],
    progress: Progress,
) -> list[GraphSpec]:
    graphs: list[GraphSpec] = []
    finished = dict(done)
    for precision in precisions:
        placed = materialize(locations, staging, precision) if materialized else locations
        for component in COMPONENTS:
            progress(f"{component.name} {precision}", len(graphs), _pieces(precisions))
            compute = _compute_precision(checkpoint, component, precision)
            name = f"{component.name}.{precision}.onnx"
            if name not in finished:
                _write_graph(checkpoint, component, compute, placed[component.part], staging, name)
                finished[name] = file_hash(staging / name)
                _record(staging, job, finished)
            graphs.append(_graph_spec(checkpoint, component, precision, staging, name))
    return graphs


def _compute_precision(checkpoint: Checkpoint, component: Component, precision: str) -> str:
    """The VAE's activations leave fp16's range; its graph in an fp16 bundle computes in fp32."""
    overflows = component.part == "vae" and checkpoint.vae_overflows_in_fp16
    return "fp32" if precision == "fp16" and overflows else precision


def _write_graph(
    checkpoint: Checkpoint,
    component: Component,
    precision: str,
    locations: dict[str, TensorLocation],
    staging: Path,
    name: str,
) -> None:
    model = trace(component, checkpoint.config_of(component), lambda: checkpoint.build(component.part, emit), precision)
    attach_weights(model, locations, staging, ONNX_DTYPES[precision])
    proto = ir.to_proto(model)
    if model.functions:
        _write(staging / _inlined(name), onnx.inliner.inline_local_functions(proto))
    _write(staging / name, proto)


def _write(path: Path, proto: onnx.ModelProto) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_bytes(proto.SerializeToString())
    os.replace(temporary, path)


def _inlined(name: str) -> str:
    return f"{name.removesuffix('.onnx')}.inlined.onnx"


def _record(staging: Path, job: dict[str, object], done: dict[str, str]) -> None:
    temporary = staging / f".{JOB}.partial"
    temporary.write_text(json.dumps({"job": job, "done": done}), encoding="utf-8")
    os.replace(temporary, staging / JOB)


def _graph_spec(checkpoint: Checkpoint, component: Component, precision: str, staging: Path, name: str) -> GraphSpec:
    config = checkpoint.config_of(component)
    compute = _compute_precision(checkpoint, component, precision)
    model = ir.load(staging / name)
    stored = [value.const_value for value in model.graph.initializers.values()]
    weights = [tensor for tensor in stored if isinstance(tensor, ir.ExternalTensor)]
    twin = _inlined(name) if (staging / _inlined(name)).is_file() else None
    return GraphSpec(
        component=component.name,
        precision=precision,
        file=name,
        sha256=file_hash(staging / name),
        inputs=_specs(component.inputs(config), compute),
        outputs=_specs(component.outputs(config), compute),
        weight_bytes=sum(tensor.nbytes for tensor in weights),
        resident_bytes=sum(tensor.size for tensor in weights) * int(ONNX_DTYPES[compute].itemsize),
        inlined=twin,
        inlined_sha256=None if twin is None else file_hash(staging / twin),
        keeps_float32=component.keeps_float32,
        picture_rows=component.picture_rows,
        repeats_shapes=component.repeats_shapes,
    )


def _specs(tensors: dict[str, Tensor], precision: str) -> dict[str, TensorSpec]:
    return {
        name: TensorSpec(dtype=DTYPE_NAMES[precision] if tensor.dtype == "compute" else tensor.dtype, shape=tensor.shape)
        for name, tensor in tensors.items()
    }


def _files(staging: Path) -> list[FileSpec]:
    weights = sorted(path for part in PARTS for path in (staging / part).glob("*.safetensors"))
    return [_file_spec(staging, path) for path in (*weights, staging / TOKENIZER)]


def _file_spec(staging: Path, path: Path) -> FileSpec:
    return FileSpec(
        file=path.relative_to(staging).as_posix(),
        size_bytes=path.stat().st_size,
        sha256=file_hash(path),
        header_sha256=header_hash(path) if path.suffix == ".safetensors" else None,
    )


def _publish(staging: Path, bundle: Path) -> None:
    """One rename. An old bundle steps aside first and is deleted last, so that there is one at every moment but a blink."""
    if not bundle.exists():
        os.rename(staging, bundle)
        return
    old = Path(f"{bundle}.old-{hashlib.sha256(str(time.time_ns()).encode()).hexdigest()[:8]}")
    os.rename(bundle, old)
    os.rename(staging, bundle)
    shutil.rmtree(old, ignore_errors=True)
