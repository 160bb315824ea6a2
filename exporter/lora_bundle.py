"""Merges LoRAs into a bundle: the result is a bundle of its own that shares every byte that the LoRAs don't change.

Only the changed tensors are written, in float32, as an export with these LoRAs writes them. The graphs that read them are
rewritten, and all other files are hard links. A merged bundle is made once: its folder's name is a hash of its content.
Works on a bundle; needs no checkpoint, no PyTorch and no onnx.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from ..runtime.backends.tensorrt.records import FOLDER as ENGINES
from ..runtime.bundle import Bundle
from ..runtime.dtypes import PRECISIONS
from ..runtime.errors import BundleError, ExportError
from ..runtime.files.hashes import file_hash
from ..runtime.files.onnx_weights import MAX_GRAPH_BYTES, external_tensors
from ..runtime.files.reading import read_bytes
from ..runtime.files.safetensors_header import TensorLocation, read_header
from ..runtime.files.writing import write_whole
from ..runtime.manifest import MANIFEST, FileSpec, GraphSpec, Manifest, MergedLora
from ..runtime.progress import Progress, no_progress
from .bundle_writer import disk_errors, file_spec, write_manifest
from .lora_store import WORK, merge_key, store_folders, tidy
from .staging import BusyError, Work, open_staging
from .weights.graph_weights import replace_weights
from .weights.lora import MERGED_WEIGHTS, Lora, LoraReport, identify_lora, merge_loras, report_lora
from .weights.placement import Copies, place_all

__all__ = ["Lora", "MergedBundle", "merged_bundle"]

PART = "transformer/"
"""The folder of the weights that a LoRA changes."""
MERGED = re.compile(rf"{re.escape(MERGED_WEIGHTS.removesuffix('.safetensors'))}(_[0-9]+)?\.safetensors")
WAIT_S = 0.1


@dataclass(frozen=True, kw_only=True)
class MergedBundle:
    """A bundle with merged LoRAs.

    path: its folder.
    loras: the LoRAs that this call merged or found merged.
    is_new: whether this call made it. The other fields say how, and are empty where it was there.
    reports: what each LoRA changes.
    written_bytes: the merged weights.
    copied: the files that had to be copied.
    engines: the engines in the original bundle, which don't fit the merged one.
    """

    path: Path
    loras: tuple[MergedLora, ...]
    is_new: bool = False
    reports: tuple[LoraReport, ...] = ()
    written_bytes: int = 0
    copied: Copies = Copies()
    engines: int = 0
    seconds: float = 0.0


def merged_bundle(
    bundle: str | Path | Bundle,
    loras: Sequence[Lora],
    *,
    folder: str | Path | None = None,
    progress: Progress = no_progress,
) -> MergedBundle:
    """The bundle with LoRAs merged, one after another; it is made where it isn't there yet.

    bundle: a bundle that isn't quantized: its folder, or opened.
    folder: where merged bundles are kept; by default beside the bundle, see `lora_store.store_folders`.
    Several processes may ask for the same one: the others wait for the first.
    Raises BundleError, and ExportError where a LoRA can't be merged or the disk is full; then nothing is left.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    _check(opened, loras)
    job = _Job(opened, tuple(loras), tuple(map(identify_lora, loras)), file_hash(opened.path / MANIFEST))
    name = merge_key(job.base, job.all_loras)
    targets = [store / name for store in store_folders(opened.path, folder)]
    with disk_errors(targets[-1]):
        found = next(filter(None, (_existing(target, job) for target in targets)), None)
        return found or _made(targets[-1], job, progress)


@dataclass(frozen=True)
class _Job:
    """base: the hash of the bundle's manifest."""

    bundle: Bundle
    loras: tuple[Lora, ...]
    identities: tuple[MergedLora, ...]
    base: str

    @property
    def all_loras(self) -> tuple[MergedLora, ...]:
        return (*self.bundle.manifest.loras, *self.identities)

    def check_unchanged(self) -> None:
        """Raises ExportError where a LoRA or the bundle isn't what it was when the work began."""
        if tuple(map(identify_lora, self.loras)) != self.identities or file_hash(self.bundle.path / MANIFEST) != self.base:
            raise ExportError(f"{str(self.bundle.path)!r} or a LoRA has changed while they were merged: try again")


def _check(bundle: Bundle, loras: Sequence[Lora]) -> None:
    if not loras:
        raise ExportError("no LoRA is given to merge: give one or more")
    if any(graph.rounded_bytes for graph in bundle.manifest.graphs):
        raise ExportError(
            f"{str(bundle.path)!r} is quantized, and no LoRA can be merged into rounded weights: merge it into the bundle that "
            "it was made from (`omnigen2 lora BUNDLE --lora FILE`), and quantize the result"
        )


def _existing(target: Path, job: _Job) -> MergedBundle | None:
    """The merged bundle, if it is there. Its LoRAs keep their first names: the manifest's hash is the bundle's identity."""
    if not (target / MANIFEST).is_file():
        return None
    try:
        found = Bundle.open(target)
    except BundleError as error:
        raise ExportError(f"a merged bundle is damaged, delete its folder to have it made again: {error}") from error
    manifest = found.manifest
    if manifest.merged_from is None or merge_key(manifest.merged_from, manifest.loras) != target.name:
        raise ExportError(f"{str(target)!r} isn't the merged bundle of that name: move it away")
    return MergedBundle(path=target, loras=job.identities)


def _made(target: Path, job: _Job, progress: Progress) -> MergedBundle:
    """The merged bundle, made here or by another process that was quicker."""
    started = time.monotonic()
    locations = _locations(job.bundle)
    reports = tuple(report_lora(lora, locations) for lora in job.loras)
    tidy(target.parent)
    while True:
        try:
            written, copied = _write(target, job, locations, progress)
            break
        except BusyError:
            progress(0, 1, "waiting for another process, which merges the same")
            time.sleep(WAIT_S)
        except ExportError:
            if not (target / MANIFEST).is_file():
                raise
        if (existing := _existing(target, job)) is not None:
            return existing
    return MergedBundle(
        path=target,
        loras=job.identities,
        is_new=True,
        reports=reports,
        written_bytes=written.size_bytes,
        copied=copied,
        engines=len(list((job.bundle.path / ENGINES).glob("*.plan"))),
        seconds=time.monotonic() - started,
    )


def _write(
    target: Path, job: _Job, locations: Mapping[str, TensorLocation], progress: Progress
) -> tuple[FileSpec, Copies]:
    """Write the bundle and give it its name; returns as `_write_bundle`. Raises BusyError while another process does."""
    reads = [job.bundle.path, *(lora.path for lora in job.loras)]
    with open_staging(Work(WORK, target, str(job.bundle.path), reads, {"key": target.name})) as staging:
        result = _write_bundle(job, locations, staging.bundle, progress)
        staging.publish()
    return result


def _write_bundle(
    job: _Job, locations: Mapping[str, TensorLocation], folder: Path, progress: Progress
) -> tuple[FileSpec, Copies]:
    """Write the whole bundle. Returns the entry of the merged weights, and the files that were copied."""
    own = job.bundle.manifest
    name = _new_name(own)
    merged = merge_loras(job.loras, locations, folder / name, job.bundle.precisions, progress)
    weights = {tensor: place for tensor, place in merged.items() if place != locations[tensor]}
    progress(len(weights), len(weights), "placing files")
    graphs = _write_graphs(job.bundle, weights, folder)
    copied = _place_files(job.bundle, folder)
    job.check_unchanged()
    written = file_spec(folder, name)
    files = (*own.files, written)
    write_manifest(folder, replace(own, graphs=graphs, files=files, loras=job.all_loras, merged_from=job.base))
    return written, copied


def _locations(bundle: Bundle) -> dict[str, TensorLocation]:
    """The transformer's tensors by parameter name, as they are stored, with the LoRAs that are merged already.

    Converted copies of weights (`export --materialize`) are left out.
    """
    own = bundle.manifest.source_weights
    copies = {f"{PART}{precision}.safetensors" for precision in PRECISIONS} - own.keys()
    names = [spec.file for spec in bundle.manifest.files if spec.file.startswith(PART) and spec.file.endswith(".safetensors")]
    locations: dict[str, TensorLocation] = {}
    for name in sorted(names, key=lambda name: MERGED.fullmatch(name) is not None):  # merged ones, in their order, come last
        if name not in copies:
            try:
                locations |= read_header(bundle.path / name)
            except ValueError as error:
                raise ExportError(f"{error}: export the bundle again") from error
    return locations


def _new_name(manifest: Manifest) -> str:
    """The name of the file of merged weights. A bundle that has LoRAs already keeps theirs."""
    before = sum(MERGED.fullmatch(spec.file) is not None for spec in manifest.files)
    return MERGED_WEIGHTS if before == 0 else MERGED_WEIGHTS.replace(".", f"_{before + 1}.")


def _write_graphs(bundle: Bundle, weights: Mapping[str, TensorLocation], folder: Path) -> tuple[GraphSpec, ...]:
    """Write the graphs that read merged weights, and their twins without functions; returns the entries of all graphs."""
    unread, specs = {*weights}, []
    for spec in bundle.manifest.graphs:
        read = _tensors_read(bundle.path / spec.file, weights)
        unread -= read.keys()
        specs.append(_write_graph(bundle, spec, {name: weights[name] for name in read}, folder, read) if read else spec)
    if unread:
        raise ExportError(f"no graph reads the weight {min(unread)!r}, which a LoRA changes: export the bundle again")
    return tuple(specs)


def _tensors_read(graph: Path, weights: Mapping[str, TensorLocation]) -> dict[str, int]:
    """The merged weights that a graph reads, with the bytes that they took before."""
    tensors = external_tensors(read_bytes(graph, MAX_GRAPH_BYTES))
    return {tensor.name: tensor.nbytes for tensor in tensors if tensor.name in weights and tensor.location.startswith(PART)}


def _write_graph(
    bundle: Bundle, spec: GraphSpec, weights: Mapping[str, TensorLocation], folder: Path, before: Mapping[str, int]
) -> GraphSpec:
    hashes = {}
    for name in (spec.file, spec.inlined):
        if name is not None:
            content = _rewritten_graph(bundle.path / name, weights, folder, spec.precision)
            write_whole(folder / name, content)
            hashes[name] = sha256(content).hexdigest()
    grown = sum(place.nbytes - before[name] for name, place in weights.items())
    return replace(
        spec,
        sha256=hashes[spec.file],
        inlined_sha256=None if spec.inlined is None else hashes[spec.inlined],
        weight_bytes=spec.weight_bytes + grown,
    )


def _rewritten_graph(graph: Path, weights: Mapping[str, TensorLocation], folder: Path, precision: str) -> bytes:
    """The graph with its weights in their new places. Raises ExportError where it reads one elsewhere than in an initializer."""
    try:
        content = replace_weights(read_bytes(graph, MAX_GRAPH_BYTES), weights, folder, precision)
        read = {(tensor.name, folder / tensor.location, tensor.offset) for tensor in external_tensors(content)}
    except ValueError as error:
        raise ExportError(f"{str(graph)!r} {error}: export the bundle again") from error
    written = {(name, place.path, place.offset) for name, place in weights.items()}
    if missed := [name for name, *place in read if name in weights and (name, *place) not in written]:
        raise ExportError(f"{str(graph)!r} reads {missed[0]!r} in a form that isn't known here: merge it with `export --lora`")
    return content


def _place_files(bundle: Bundle, folder: Path) -> Copies:
    """Put the files that don't change into the new bundle. Returns those that were copied."""
    return place_all((bundle.path / name, folder / name) for name in bundle.hashes if not (folder / name).exists())
