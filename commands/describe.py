"""What a file is and what this machine has, as nested facts for people and for JSON. Opens no engine."""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..runtime.backends import BACKENDS, choose_backend, choose_graphs, choose_precision
from ..runtime.backends.tensorrt.library import build_problem
from ..runtime.bundle import Bundle
from ..runtime.errors import BundleError, RequestError
from ..runtime.images.png import read_parameters
from ..runtime.manifest import MANIFEST
from .memory_plan import memory_plan

PACKAGES = (
    "omnigen2-rt", "numpy", "onnxruntime", "onnxruntime-gpu", "openvino", "tokenizers", "pillow", "torch", "onnx",
    "transformers", "tensorrt", "polygraphy", "triton", "cuda-python",
)  # fmt: skip


def describe(path: Path, verify: bool = False) -> dict[str, Any]:
    """What a picture was drawn with, or what a bundle or a checkpoint holds. verify: hash every byte of a bundle.

    Raises RequestError or BundleError for anything else.
    """
    if (path / MANIFEST).is_file():
        return _bundle(path, verify)
    if (path / "model_index.json").is_file():
        return _checkpoint(path)
    if path.is_dir():
        raise RequestError(f"{str(path)!r} is neither a bundle ({MANIFEST}) nor a checkpoint (model_index.json)")
    return read_parameters(path)


def _bundle(path: Path, verify: bool) -> dict[str, Any]:
    bundle = Bundle.open(path)
    manifest = bundle.manifest
    if verify:
        bundle.verify()
    weights = {spec.file: spec.size_bytes for spec in manifest.files}
    return {
        "kind": "bundle",
        "source": manifest.source,
        "format version": manifest.format_version,
        "precisions": ", ".join(bundle.precisions),
        "components": {
            graph.component: f"{graph.weight_bytes / 1e6:.1f} MB of weights"
            for graph in manifest.graphs
            if graph.precision == bundle.precisions[0]
        },
        "files": {name: f"{size / 1e6:.1f} MB" for name, size in weights.items()},
        "made with": manifest.tools,
        "checked": "every byte" if verify else "graph hashes, file sizes and headers",
    }


def _checkpoint(path: Path) -> dict[str, Any]:
    parts = {}
    for part in ("transformer", "vae", "mllm"):
        headers = [_header(file) for file in sorted((path / part).glob("*.safetensors"))]
        if not headers:
            raise BundleError(f"{str(path / part)!r} holds no safetensors file: the checkpoint is incomplete")
        tensors = [entry for header in headers for name, entry in header.items() if name != "__metadata__"]
        parameters = sum(math.prod(entry["shape"]) for entry in tensors)
        dtypes = ", ".join(sorted(Counter(entry["dtype"] for entry in tensors)))
        parts[part] = f"{parameters:,} parameters in {len(tensors)} tensors, {dtypes}, {len(headers)} files"
    return {"kind": "checkpoint", **parts}


def _header(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        return header
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        raise BundleError(f"{str(path)!r} is not a whole safetensors file: {error}") from error


def diagnose() -> dict[str, Any]:
    """What is installed here, which backends work, and which "auto" takes."""
    problems = {name: entry.problem() for name, entry in BACKENDS.items()}
    works = [name for name, problem in problems.items() if problem is None]
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "GPU": ", ".join(_gpus()) or "none found",
        "packages": {name: installed_version(name) for name in PACKAGES},
        "backends": {name: _works(problem) for name, problem in problems.items()},
        "building engines": _works(build_problem()),
        "auto takes": _automatic(works),
        "precisions": {name: ", ".join(BACKENDS[name].precisions(None)) for name in works},
    }


def _works(problem: str | None) -> str:
    return "works" if problem is None else f"no: {problem}"


def _automatic(works: list[str]) -> str:
    """Which of the backends that work "auto" takes, in which precision, and why."""
    if not works:
        return "none"
    best = BACKENDS[works[0]].precisions(None)[0]
    order = ", ".join(BACKENDS)
    least = BACKENDS[works[0]].least_weight_bytes
    suits = f" (the next where no component of the bundle has {least / 1e6:.0f} MB)" if least else ""
    return f"{works[0]}, the first of {order} that works{suits}; in {best}, the best that it computes here, if the bundle has it"


def memory(path: Path, backend: str, precision: str, memory_limit_bytes: int | None, steps: int) -> dict[str, Any]:
    """What drawing with a bundle opens, in which order, and what a memory limit costs. Raises as `load` does."""
    if steps < 1:
        raise RequestError(f"steps={steps} is below the fewest, 1")
    bundle = Bundle.open(path)
    name = choose_backend(backend, bundle)
    chosen = choose_precision(bundle, name, precision)
    return memory_plan(bundle, chosen, choose_graphs(bundle, name, chosen), memory_limit_bytes, steps)


def _gpus() -> list[str]:
    """NVIDIA's driver lists its GPUs in files (Linux); asking an engine would load it."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    told = [line for file in files for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [line.split(":", 1)[1].strip() for line in told if line.startswith("Model:")]


def installed_version(package: str) -> str:
    """The version of an installed distribution, or "not installed"."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
