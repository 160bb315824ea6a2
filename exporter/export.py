"""The whole export: from a checkpoint to a bundle, or nothing.

If an export is killed, the next run of the same job takes over the graphs that were finished.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path

from ..plugins.omni_rope.torch_export import emit
from ..runtime.bundle import CALIBRATION
from ..runtime.dtypes import PRECISIONS
from ..runtime.errors import ExportError
from ..runtime.files.hashes import file_hash, header_hash
from ..runtime.files.writing import write_whole
from ..runtime.manifest import MANIFEST, FileSpec, GraphSpec
from ..runtime.progress import Progress, no_progress
from .bundle_writer import disk_errors, file_spec, publish, remove_temporary_files, staging_folder, write_manifest
from .checkpoint import PARTS, Checkpoint
from .components import COMPONENTS, Component
from .graphs import component_spec, graph_file, write_component
from .manifest import TOKENIZER
from .weights.lora import Lora, LoraReport, merge_loras, report_lora
from .weights.lora_file import PEFT_CONFIG, lora_file
from .weights.materialize import materialize
from .weights.placement import place
from .weights.tensor_file import Locations

TOOLS = ("omnigen2-rt", "torch", "onnx", "onnx-ir", "onnxscript")
RECORD = "job.json"
DEFAULT_PRECISIONS = ("fp32", "bf16")  # what CPUs and what GPUs compute in


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The result of an export.

    resumed_graphs: those taken over from an earlier, killed run.
    copied: weight files that had to be copied because no link was possible.
    loras: what each merged LoRA changes.
    """

    bundle: Path
    graphs: int
    resumed_graphs: int
    copied: tuple[str, ...]
    seconds: float
    loras: tuple[LoraReport, ...] = ()


def export_bundle(
    checkpoint: str | Path,
    bundle: str | Path,
    *,
    precisions: Sequence[str] = DEFAULT_PRECISIONS,
    lora: Lora | Sequence[Lora] | None = None,
    materialized: bool = False,
    force: bool = False,
    components: Sequence[Component] | None = None,
    progress: Progress = no_progress,
) -> ExportReport:
    """Export a checkpoint (a directory or a Hugging Face id) to a bundle.

    lora: one or several to merge, one after another.
    materialized: also write the weights converted to each precision that isn't the stored one, so that a runtime can map
    them instead of converting at load.
    force: replace an existing bundle.
    components: all by default; a pipeline needs them all.
    Raises ExportError; then `bundle` is as it was.
    """
    started = time.monotonic()
    bundle = Path(bundle)  # drops a slash at the end, which would put the staging folder inside
    _check(bundle, precisions, force)
    job = _Job(
        checkpoint=Checkpoint.open(checkpoint),
        staging=staging_folder(bundle),
        precisions=tuple(precisions),
        components=tuple(COMPONENTS if components is None else components),
        loras=(lora,) if isinstance(lora, Lora) else tuple(lora or ()),
        materialized=materialized,
    )
    loras = tuple(report_lora(lora, job.checkpoint.locations["transformer"]) for lora in job.loras)
    with disk_errors(job.staging):
        finished = _finished_graphs(job)
        progress(0, job.graph_count, "placing weights")
        copied, locations = _place_weights(job)
        graphs = _export_graphs(job, locations, finished, progress)
        progress(len(graphs), job.graph_count, "hashing weights")
        files = _write_other_files(job)
        manifest = replace(job.checkpoint.manifest, graphs=tuple(graphs), files=files, tools=_tool_versions())
        write_manifest(job.staging, manifest)
        (job.staging / RECORD).unlink()
        publish(job.staging, bundle, replace_existing=force)
    seconds = time.monotonic() - started
    return ExportReport(
        bundle=bundle, graphs=len(graphs), resumed_graphs=len(finished), copied=tuple(copied), seconds=seconds, loras=loras
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    checkpoint: Checkpoint
    staging: Path
    precisions: tuple[str, ...]
    components: tuple[Component, ...]
    loras: tuple[Lora, ...]
    materialized: bool

    @property
    def graph_count(self) -> int:
        return len(self.precisions) * len(self.components)

    @cached_property
    def description(self) -> dict[str, object]:
        """Identifies the job: a weight file by path, size and header, a LoRA by its content."""
        files = self.checkpoint.weight_files()
        return {
            "weights": {str(path): [path.stat().st_size, header_hash(path)] for path in files},
            "configs": {part: repr(getattr(self.checkpoint, part)) for part in (*PARTS, "vision")},
            "precisions": list(self.precisions),
            "loras": [[str(lora.path), lora.scale, *_lora_hashes(lora_file(lora.path))] for lora in self.loras],
            "materialized": self.materialized,
            "tools": _tool_versions(),
        }


def _lora_hashes(file: Path) -> list[str]:
    """The hashes of a LoRA's file, and of PEFT's settings where they lie beside it."""
    return [file_hash(path) for path in (file, file.with_name(PEFT_CONFIG)) if path.is_file()]


def _tool_versions() -> dict[str, str]:
    return {tool: version(tool) for tool in TOOLS}


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


def _finished_graphs(job: _Job) -> dict[str, str]:
    """The graphs (file name -> hash) that a killed run of the same job left. Without any, empties the staging folder."""
    try:
        record = json.loads((job.staging / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if record is None or record["job"] != job.description:
        shutil.rmtree(job.staging, ignore_errors=True)
        job.staging.mkdir(parents=True)
        return {}
    remove_temporary_files(job.staging)
    finished: dict[str, str] = record["done"]
    return {name: digest for name, digest in finished.items() if _has_hash(job.staging / name, digest)}


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and file_hash(path) == digest


def _place_weights(job: _Job) -> tuple[list[str], Locations]:
    """Put the weight files into the staging folder. Returns those that were copied, and the tensors' places there."""
    targets = {path: job.staging / path.parent.name / path.name for path in job.checkpoint.weight_files()}
    copied = [f"{path.parent.name}/{path.name}" for path, target in targets.items() if place(path, target)]
    locations = {
        part: {name: replace(location, path=targets[location.path]) for name, location in tensors.items()}
        for part, tensors in job.checkpoint.locations.items()
    }
    if job.loras:
        target = job.staging / "transformer" / "merged_lora.safetensors"
        locations["transformer"] = merge_loras(job.loras, locations["transformer"], target, job.precisions)
    return copied, locations


def _export_graphs(job: _Job, locations: Locations, finished: dict[str, str], progress: Progress) -> list[GraphSpec]:
    graphs: list[GraphSpec] = []
    hashes = dict(finished)
    for precision in job.precisions:
        placed = materialize(locations, job.staging, precision) if job.materialized else locations
        for component in job.components:
            progress(len(graphs), job.graph_count, f"{component.name} {precision}")
            graphs.append(_export_graph(job, component, precision, placed, hashes))
    return graphs


def _export_graph(
    job: _Job, component: Component, precision: str, locations: Locations, finished: dict[str, str]
) -> GraphSpec:
    """Write a graph and add it to `finished`, if it isn't there yet."""
    checkpoint, config, part = job.checkpoint, job.checkpoint.config_of(component), component.part
    compute = _compute_precision(checkpoint, component, precision)
    file = graph_file(component, precision)
    if file not in finished:
        build = partial(checkpoint.build, part, emit)
        write_component(component, config, build, locations[part], job.staging, precision, compute)
        finished[file] = file_hash(job.staging / file)
        write_whole(job.staging / RECORD, json.dumps({"job": job.description, "done": finished}))
    return component_spec(component, config, job.staging, precision, compute)


def _compute_precision(checkpoint: Checkpoint, component: Component, precision: str) -> str:
    """The precision that a graph computes in: float32 for a VAE that overflows in fp16."""
    overflows = component.part == "vae" and checkpoint.vae_overflows_in_fp16
    return "fp32" if precision == "fp16" and overflows else precision


def _write_other_files(job: _Job) -> tuple[FileSpec, ...]:
    """Write the tokenizer and the calibration prompts; returns the entries of the tokenizer and the weight files."""
    folder, prompts = job.staging, job.checkpoint.path / CALIBRATION
    (folder / TOKENIZER).parent.mkdir(exist_ok=True)
    write_whole(folder / TOKENIZER, job.checkpoint.tokenizer)
    if prompts.is_file():
        write_whole(folder / CALIBRATION, prompts.read_bytes())
    weights = sorted(path for part in PARTS for path in (folder / part).glob("*.safetensors"))
    names = [*(path.relative_to(folder).as_posix() for path in weights), TOKENIZER]
    return tuple(file_spec(folder, name) for name in names)
