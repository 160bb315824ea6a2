"""Reports on a file, a bundle and this machine, as nested dictionaries for people and for JSON. Opens no component."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..runtime.backends import BACKENDS, choose_backend, choose_graphs, choose_precision
from ..runtime.backends.openvino.rewrite_reports import RewriteReport
from ..runtime.backends.openvino.rewrites import rewrite_reports
from ..runtime.bundle import Bundle
from ..runtime.errors import BundleError, RequestError
from ..runtime.files.reading import open_regular
from ..runtime.files.safetensors_header import read_header
from ..runtime.files.user_cache import UserCache, user_cache
from ..runtime.images.png import read_parameters
from ..runtime.manifest import MANIFEST, Manifest
from ..runtime.pipeline import bundle_path
from .memory_plan import memory_plan, size_text

PACKAGES = (
    "omnigen2-rt", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tokenizers", "pillow", "torch", "onnx",
    "transformers", "tensorrt", "tensorrt-rtx-cu13", "polygraphy", "triton", "cuda-bindings",
)  # fmt: skip
MOST_REFUSALS = 4
"""Kinds of refused rewrites that are listed of a component."""


def describe(path: Path, verify: bool = False) -> dict[str, Any]:
    """The parameters that a picture was drawn with, or the contents of a bundle or a checkpoint.

    Raises RequestError or BundleError for anything else.

    verify: hash every byte of every file that a bundle lists.
    """
    folder = bundle_path(str(path))
    if os.path.lexists(folder / MANIFEST):
        return _bundle(folder, verify)
    if os.path.isfile(path / "model_index.json"):
        return _checkpoint(path)
    if os.path.isdir(path):
        reason = "" if os.access(path, os.R_OK | os.X_OK) else ": it may not be read"
        raise RequestError(f"{str(path)!r} is neither a bundle ({MANIFEST}) nor a checkpoint (model_index.json){reason}")
    return _picture(path)


def _picture(path: Path) -> dict[str, Any]:
    """The parameters of a picture. A FIFO or a device is refused before anything waits for it."""
    try:
        open_regular(path).close()
    except FileNotFoundError as error:
        raise RequestError(f"{str(path)!r} does not exist") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return read_parameters(path)


def _bundle(path: Path, verify: bool) -> dict[str, Any]:
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if verify:
        bundle.verify()
        _check_source(manifest)
    weights = {spec.file: spec.size_bytes for spec in manifest.files}
    return {
        "kind": "bundle",
        "source": manifest.source,
        "format version": manifest.format_version,
        "precisions": ", ".join(bundle.precisions),
        "components": {
            graph.component: f"{size_text(graph.weight_bytes)} of weights"
            for graph in manifest.graphs
            if graph.precision == bundle.precisions[0]
        },
        "files": {name: size_text(size) for name, size in weights.items()},
        **({"LoRAs": _loras(manifest)} if manifest.loras else {}),
        "made with": manifest.tools,
        "checked": "every byte" if verify else "graph hashes, file sizes and headers",
        **({"weights": _origin(manifest)} if verify else {}),
    }


def _loras(manifest: Manifest) -> dict[str, str]:
    """The scale and the hash of each merged LoRA, by its place and name."""
    entries = enumerate(manifest.loras, 1)
    return {f"{number}. {lora.name}": f"scale {lora.scale:g}, SHA-256 {lora.sha256}" for number, lora in entries}


def _check_source(manifest: Manifest) -> None:
    """Raises BundleError where a weight file isn't the one that the source had when it was exported."""
    present = {spec.file: spec.sha256 for spec in manifest.files}
    for name, sha256 in manifest.source_weights.items():
        if present.get(name) != sha256:
            raise BundleError(f"{name!r} is not the weight file that {manifest.source!r} was exported with: export it again")


def _origin(manifest: Manifest) -> str:
    if manifest.source_weights:
        return f"the same as in {manifest.source} when it was exported"
    return f"not compared with {manifest.source}: bundle.json has no hashes of its weights"


def _checkpoint(path: Path) -> dict[str, Any]:
    return {"kind": "checkpoint", **{part: _network(path / part) for part in ("transformer", "vae", "mllm")}}


def _network(folder: Path) -> str:
    """The size of a network's weights in words. Raises BundleError for a file that isn't whole."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise BundleError(f"{str(folder)!r} holds no safetensors file: the checkpoint is incomplete")
    try:
        tensors = [tensor for file in files for tensor in read_header(file).values()]
    except ValueError as error:
        raise BundleError(str(error)) from error
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    dtypes = ", ".join(sorted({tensor.dtype for tensor in tensors}))
    return f"{parameters:,} parameters in {len(tensors)} tensors, {dtypes}, {len(files)} files"


def diagnose() -> dict[str, Any]:
    """The installed packages, the backends that work here, and the one that "auto" takes."""
    from ..exporter.engines.builders import BUILDERS

    problems = {name: entry.problem() for name, entry in BACKENDS.items()}
    working = [name for name, problem in problems.items() if problem is None]
    building = {name: builder.problem("auto") for name, builder in BUILDERS.items()}
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "GPU": ", ".join(_gpus()) or "none found",
        "packages": {name: installed_version(name) for name in PACKAGES},
        "backends": {name: _state(problem) for name, problem in problems.items()},
        "building engines": {name: _building(name, problems[name], problem) for name, problem in building.items()},
        "auto takes": _automatic_choice(working),
        "compiled models": _kept(user_cache()),
        "precisions": {name: ", ".join(BACKENDS[name].precisions(None)) for name in working},
    }


def _kept(cache: UserCache) -> str:
    return f"kept in {str(cache.folder)!r}" if cache.problem is None else f"not kept: {cache.problem}"


def _state(problem: str | None) -> str:
    return "works" if problem is None else f"no: {problem}"


def _building(name: str, running: str | None, building: str | None) -> str:
    """Whether engines can be built; what keeps them from running as well is not said again."""
    if running is None or building is None or not building.startswith(running):
        return _state(building)
    further = building.removeprefix(running).removeprefix("; ")
    return f"no: needs what `{name}` lacks above" + (f"; {further}" if further else "")


def _automatic_choice(working: list[str]) -> str:
    """The backend that "auto" takes of those that work, its precision, and why."""
    if not working:
        return "none"
    best = BACKENDS[working[0]].precisions(None)[0]
    order = ", ".join(BACKENDS)
    least = BACKENDS[working[0]].least_weight_bytes
    suits = f" (the next where no component of the bundle has {least / 1e6:.0f} MB)" if least else ""
    first = f"{working[0]}, the first of {order} that works{suits}"
    return f"{first}; in {best}, the best that it computes here, if the bundle has it"


def diagnose_drawing(
    path: Path, backend: str, precision: str, memory_limit_bytes: int | None, steps: int
) -> dict[str, Any]:
    """Backend, precision and memory plan of a drawing with a bundle; on OpenVINO, also the rewrites. Raises as `load` does."""
    if steps < 1:
        raise RequestError(f"steps={steps} is below the fewest, 1")
    bundle = Bundle.open(bundle_path(str(path)))
    name = choose_backend(backend, bundle)
    chosen = choose_precision(bundle, name, precision)
    graphs = choose_graphs(bundle, name, chosen)
    plan = memory_plan(bundle, chosen, graphs, memory_limit_bytes, steps)
    report = {"this bundle takes": f"{name} in {chosen}", "memory": plan}
    if name == "openvino":
        report |= _rewrites(rewrite_reports(bundle, chosen, graphs, pads=memory_limit_bytes is None))
    return report


def _rewrites(reports: Mapping[str, Sequence[RewriteReport]]) -> dict[str, Any]:
    """The number of rewritten places by component and rewrite, and the refusals of each component that has any."""
    counts = {
        component: ", ".join(f"{each.name} {each.rewritten}" for each in rewrites if each.rewritten) or "nothing"
        for component, rewrites in reports.items()
    }
    refusals = {component: lines for component, rewrites in reports.items() if (lines := _refusals(rewrites))}
    return {"rewrites": counts, "refused rewrites": refusals or "none"}


def _refusals(rewrites: Sequence[RewriteReport]) -> dict[str, Any]:
    """The first refusals with their reasons, those of one reason in a line, and the number of the others."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for rewrite in rewrites:
        for node, reason in rewrite.refusals:
            nodes.setdefault((rewrite.name, reason), []).append(node)
    listed = list(nodes.items())[:MOST_REFUSALS]
    lines: dict[str, Any] = {_place(name, candidates): reason for (name, reason), candidates in listed}
    further = sum(map(len, nodes.values())) - sum(len(candidates) for _, candidates in listed)
    return {**lines, "further refusals": further} if further else lines


def _place(rewrite: str, nodes: list[str]) -> str:
    first = f" at {nodes[0]}" if nodes[0] else ""
    return f"{rewrite}{first}" + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else "")


def _gpus() -> list[str]:
    """The names of the GPUs in the files of NVIDIA's driver (Linux): an engine would have to be loaded first."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]


def installed_version(package: str) -> str:
    """The version of an installed distribution, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
