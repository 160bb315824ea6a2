"""The whole export: from a checkpoint to a bundle, or nothing.

If an export is killed, the next run of the same job takes over the graphs that were finished.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ..plugins.omni_rope.torch_export import emit
from ..runtime.bundle import CALIBRATION, MAX_PROMPT_BYTES
from ..runtime.dtypes import PRECISIONS
from ..runtime.errors import ExportError
from ..runtime.files.hashes import file_hash, header_hash
from ..runtime.files.reading import read_bytes
from ..runtime.files.writing import write_whole
from ..runtime.manifest import FileSpec, GraphSpec
from ..runtime.progress import Progress, no_progress
from .bundle_writer import disk_errors, file_spec, write_manifest
from .checkpoint import PARTS, Checkpoint
from .components import COMPONENTS, Component
from .graphs import component_spec, graph_file, write_component
from .manifest import TOKENIZER
from .preview_map import fit_latent_rgb
from .staging import Staging, Work, open_staging, prepare_target
from .target import check_replaceable
from .weights.lora import MERGED_WEIGHTS, Lora, LoraReport, identify_lora, merge_loras, report_lora
from .weights.materialize import materialize
from .weights.placement import Copies, place_all
from .weights.tensor_file import Locations

TOOLS = ("omnigen2-rt", "torch", "onnx", "onnx-ir", "onnxscript")
DEFAULT_PRECISIONS = ("fp32", "bf16")  # what CPUs and what GPUs compute in


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """The result of an export.

    resumed_graphs: those taken over from an earlier, killed run.
    copied: the weight files that had to be copied.
    loras: what each merged LoRA changes.
    """

    bundle: Path
    graphs: int
    resumed_graphs: int
    copied: Copies
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
    force: replace an existing bundle, which must lie apart from what is exported.
    components: all by default; a pipeline needs them all.
    Raises ExportError; then `bundle` is as it was.
    """
    started = time.monotonic()
    _check_precisions(precisions)
    target = prepare_target(bundle, force)
    job = _Job(
        checkpoint=Checkpoint.open(checkpoint),
        precisions=tuple(precisions),
        components=tuple(COMPONENTS if components is None else components),
        loras=(lora,) if isinstance(lora, Lora) else tuple(lora or ()),
        materialized=materialized,
    )
    loras = tuple(report_lora(lora, job.checkpoint.locations["transformer"]) for lora in job.loras)
    with disk_errors(target):
        check_replaceable(target, job.reads())
        work = Work("export", target, str(checkpoint), job.reads(), job.description(), force)
        with open_staging(work) as staging:
            finished = _finished_graphs(staging)
            copied, graphs = _write_bundle(job, staging, dict(finished), progress)
            staging.publish()
    seconds = time.monotonic() - started
    return ExportReport(
        bundle=Path(bundle), graphs=graphs, resumed_graphs=len(finished), copied=copied, seconds=seconds, loras=loras
    )


@dataclass(frozen=True, kw_only=True)
class _Job:
    checkpoint: Checkpoint
    precisions: tuple[str, ...]
    components: tuple[Component, ...]
    loras: tuple[Lora, ...]
    materialized: bool

    @property
    def graph_count(self) -> int:
        return len(self.precisions) * len(self.components)

    def reads(self) -> list[Path]:
        """The files and folders that are read."""
        return [self.checkpoint.path, *self.checkpoint.weight_files(), *(lora.path for lora in self.loras)]

    def description(self) -> dict[str, object]:
        """Identifies the job, as its files are now: a weight file by path, size, time and header, a LoRA by its content."""
        return {
            "weights": {str(path.resolve()): _identity(path) for path in self.checkpoint.weight_files()},
            "configs": {part: repr(getattr(self.checkpoint, part)) for part in (*PARTS, "vision")},
            "precisions": list(self.precisions),
            "loras": [[str(lora.path), asdict(identify_lora(lora))] for lora in self.loras],
            "materialized": self.materialized,
            "tools": _tool_versions(),
        }


def _identity(weights: Path) -> list[object]:
    status = weights.stat()
    return [status.st_size, status.st_mtime_ns, header_hash(weights)]


def _tool_versions() -> dict[str, str]:
    return {tool: version(tool) for tool in TOOLS}


def _check_precisions(precisions: Sequence[str]) -> None:
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown or not precisions:
        raise ExportError(f"precision {', '.join(unknown) or 'none'} is unknown; choose from {', '.join(PRECISIONS)}")


def _finished_graphs(staging: Staging) -> dict[str, str]:
    """The graphs (file name -> hash) that a killed run of the same job left."""
    return {name: digest for name, digest in staging.progress().items() if _has_hash(staging.bundle / name, digest)}


def _has_hash(path: Path, digest: str) -> bool:
    return path.is_file() and file_hash(path) == digest


def _write_bundle(
    job: _Job, staging: Staging, finished: dict[str, str], progress: Progress
) -> tuple[Copies, int]:
    """Write the whole bundle. Returns the weight files that were copied, and the number of graphs."""
    progress(0, job.graph_count, "placing weights")
    copied, locations = _place_weights(job, staging.bundle)
    graphs = _export_graphs(job, staging, locations, finished, progress)
    progress(len(graphs), job.graph_count, "hashing weights")
    files = _write_other_files(job, staging.bundle)
    own = job.checkpoint.manifest
    manifest = replace(
        own,
        vae=replace(own.vae, latent_rgb=fit_latent_rgb(job.checkpoint.path)),
        graphs=tuple(graphs),
        files=files,
        tools=_tool_versions(),
        source_weights=_source_weights(job, staging.bundle, files),
        loras=tuple(map(identify_lora, job.loras)),
    )
    _check_unchanged(job, staging.work)
    write_manifest(staging.bundle, manifest)
    return copied, len(graphs)


def _check_unchanged(job: _Job, work: Work) -> None:
    """Raises ExportError where a weight file or the LoRA isn't what it was when the export began."""
    try:
        is_unchanged = job.description() == work.job
    except OSError:
        is_unchanged = False
    if not is_unchanged:
        raise _changed(f"{work.source!r} or its LoRA")


def _changed(what: str) -> ExportError:
    return ExportError(f"{what} has changed while it was exported: export it again")


def _placed_name(weights: Path) -> str:
    """The name that a weight file of the checkpoint has in the bundle."""
    return f"{weights.parent.name}/{weights.name}"


def _place_weights(job: _Job, folder: Path) -> tuple[Copies, Locations]:
    """Put the weight files into the bundle's folder. Returns those that were copied, and the tensors' places there."""
    targets = {path: folder / _placed_name(path) for path in job.checkpoint.weight_files()}
    copied = place_all(targets.items())
    locations = {
        part: {name: replace(location, path=targets[location.path]) for name, location in tensors.items()}
        for part, tensors in job.checkpoint.locations.items()
    }
    if job.loras:
        target = folder / MERGED_WEIGHTS
        locations["transformer"] = merge_loras(job.loras, locations["transformer"], target, job.precisions)
    return copied, locations


def _source_weights(job: _Job, folder: Path, files: Sequence[FileSpec]) -> dict[str, str]:
    """The hashes of the checkpoint's own weight files by their names in the bundle. A copy is compared with the original."""
    placed = {spec.file: spec.sha256 for spec in files}
    hashes = {}
    for path in job.checkpoint.weight_files():
        name = _placed_name(path)
        try:
            hashes[name] = placed[name] if path.samefile(folder / name) else file_hash(path)
        except FileNotFoundError:
            raise _changed(repr(str(path))) from None
        if hashes[name] != placed[name]:
            raise _changed(repr(str(path)))
    return hashes


def _export_graphs(
    job: _Job, staging: Staging, locations: Locations, finished: dict[str, str], progress: Progress
) -> list[GraphSpec]:
    graphs: list[GraphSpec] = []
    for precision in job.precisions:
        placed = materialize(locations, staging.bundle, precision) if job.materialized else locations
        for component in job.components:
            progress(len(graphs), job.graph_count, f"{component.name} {precision}")
            graphs.append(_export_graph(job, staging, component, precision, placed, finished))
    return graphs


def _export_graph(
    job: _Job, staging: Staging, component: Component, precision: str, locations: Locations, finished: dict[str, str]
) -> GraphSpec:
    """Write a graph and add it to `finished`, if it isn't there yet."""
    checkpoint, config, part = job.checkpoint, job.checkpoint.config_of(component), component.part
    compute = _compute_precision(checkpoint, component, precision)
    file = graph_file(component, precision)
    if file not in finished:
        build = partial(checkpoint.build, part, emit)
        write_component(component, config, build, locations[part], staging.bundle, precision, compute)
        finished[file] = file_hash(staging.bundle / file)
        staging.save_progress(finished)
    return component_spec(component, config, staging.bundle, precision, compute)


def _compute_precision(checkpoint: Checkpoint, component: Component, precision: str) -> str:
    """The precision that a graph computes in: float32 for a VAE that overflows in fp16."""
    overflows = component.part == "vae" and checkpoint.vae_overflows_in_fp16
    return "fp32" if precision == "fp16" and overflows else precision


def _write_other_files(job: _Job, folder: Path) -> tuple[FileSpec, ...]:
    """Write the tokenizer and the calibration prompts; returns the entries of these and the weight files."""
    prompts = job.checkpoint.path / CALIBRATION
    (folder / TOKENIZER).parent.mkdir(exist_ok=True)
    write_whole(folder / TOKENIZER, job.checkpoint.tokenizer)
    if prompts.is_file():
        write_whole(folder / CALIBRATION, read_bytes(prompts, MAX_PROMPT_BYTES))
    weights = sorted(path for part in PARTS for path in (folder / part).glob("*.safetensors"))
    names = [*(path.relative_to(folder).as_posix() for path in weights), TOKENIZER]
    if prompts.is_file():
        names.append(CALIBRATION)
    return tuple(file_spec(folder, name) for name in names)
