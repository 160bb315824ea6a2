"""Every TensorRT and CUDA name that our code uses exists in the real bindings. Run by `test_tensorrt.py`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import tensorrt as trt

ROOT = Path(__file__).resolve().parents[3]
LIBRARY, BACKEND = "runtime/backends/tensorrt/library.py", "runtime/backends/tensorrt/backend.py"
CUDA, MONITOR = "runtime/backends/tensorrt/cuda.py", "exporter/engines/progress_monitor.py"
FILES = (
    LIBRARY,
    BACKEND,
    MONITOR,
    "runtime/backends/tensorrt/session.py",
    "exporter/engines/tensorrt_builder.py",
    "exporter/engines/tensorrt_network.py",
    "plugins/omni_rope/plugin.py",
)
RECEIVERS = {
    "builder": trt.Builder,
    "config": trt.IBuilderConfig,
    "context": trt.IExecutionContext,
    "engine": trt.ICudaEngine,
    "_engine": trt.ICudaEngine,
    "network": trt.INetworkDefinition,
    "parser": trt.OnnxParser,
    "parser_error": trt.ParserError,
    "refitter": trt.Refitter,
    "_runtime": trt.Runtime,
    "timings": trt.ITimingCache,
}
"""The class of a variable of this name, which must have the attributes that our code uses."""
EXCEPTIONS = {(BACKEND, "parser"): trt.OnnxParserRefitter}


def chain(node: ast.Attribute) -> list[str]:
    """`self._trt.Logger.INTERNAL_ERROR` -> [self, _trt, Logger, INTERNAL_ERROR]; [] where it isn't plain names."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value  # type: ignore[assignment]
    return [node.id, *names] if isinstance(node, ast.Name) else []


def used_names(path: Path) -> set[tuple[str, ...]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    chains = [chain(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {tuple(names[1:] if names[0] == "self" else names) for names in chains if names}


def checked_names() -> tuple[set[str], list[str]]:
    """The names that exist, and those that are missing."""
    import tensorrt.plugin as trtp

    roots = {"trt": trt, "_trt": trt, "trtp": trtp}
    existing, missing = set(), []
    for file in FILES:
        for names in used_names(ROOT / file):
            first, *rest = names
            holder: Any = roots.get(first, EXCEPTIONS.get((file, first), RECEIVERS.get(first)))
            if holder is None or not rest:
                continue
            for name in rest if first in roots else rest[:1]:
                if not hasattr(holder, name):
                    missing.append(f"{file}: {'.'.join(names)}")
                    break
                holder = getattr(holder, name)
                existing.add(".".join(names))
    return existing, missing


def tensorrt_names_all_exist() -> None:
    existing, missing = checked_names()
    assert not missing, missing
    assert len(existing) > 60, f"only {len(existing)} names were checked, so the walk misses some: {sorted(existing)}"


def every_receiver_is_still_in_use() -> None:
    """A renamed variable would leave the walk with nothing to check."""
    variables = {names[0] for file in FILES for names in used_names(ROOT / file) if len(names) > 1}
    assert RECEIVERS.keys() <= variables, RECEIVERS.keys() - variables


def tensorrt_is_used_nowhere_else() -> None:
    """Every file that imports tensorrt, or gets it as an argument, is in FILES."""
    folders = ("exporter", "runtime", "plugins", "reference")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    roots = {"trt", "_trt", "trtp"}
    using = {path for path in [*sources, ROOT / "cli.py"] if any(names[0] in roots for names in used_names(path))}
    assert {str(path.relative_to(ROOT)) for path in using} <= set(FILES)


def tensorrt_subclasses_override_real_methods() -> None:
    ours = {"IProgressMonitor": MONITOR, "IErrorRecorder": LIBRARY}
    for name, file in ours.items():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        classes = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and any(ast.unparse(parent) == f"trt.{name}" for parent in node.bases)
        ]
        assert len(classes) == 1
        methods = {entry.name for entry in classes[0].body if isinstance(entry, ast.FunctionDef)}
        expected = {entry for entry in dir(getattr(trt, name)) if not entry.startswith("_")} - {"MAX_DESC_LENGTH"}
        assert {entry for entry in methods if not entry.startswith("_")} == expected, (name, methods, expected)


def tensorrt_enumerations_have_our_names() -> None:
    from omnigen2_rt.exporter.engines.options import HARDWARE_COMPATIBILITY
    from omnigen2_rt.runtime.dtypes import DTYPES

    assert {row.tensorrt for row in DTYPES.values()} <= trt.DataType.__members__.keys()
    assert {level.upper() for level in HARDWARE_COMPATIBILITY} == set(trt.HardwareCompatibilityLevel.__members__)


def error_recorder_takes_the_real_base() -> None:
    from omnigen2_rt.runtime.backends.tensorrt.library import make_error_recorder

    recorder = make_error_recorder(trt)
    assert isinstance(recorder, trt.IErrorRecorder)
    recorder.report_error(trt.ErrorCodeTRT.INTERNAL_ERROR, "text")
    assert (recorder.num_errors(), recorder.get_error_desc(0)) == (1, "text")


def cuda_names_all_exist() -> None:
    from cuda.bindings import driver, runtime

    from tests.exporter.engines.fake_cuda import FakeCuda

    tree = ast.parse((ROOT / CUDA).read_text(encoding="utf-8"))
    called = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("cuda")
        and node.value.isalnum()
    }
    direct = {names[1] for names in used_names(ROOT / CUDA) if names[0] == "_cudart" and len(names) > 1}
    assert len(called) >= 14
    for name in (called | direct) - {"cuda"}:
        assert hasattr(runtime, name), name
        assert hasattr(FakeCuda, name), f"the double lacks {name}"
    for names in used_names(ROOT / CUDA):
        if names[0] == "_cudart" and len(names) == 3:
            assert hasattr(getattr(runtime, names[1]), names[2]), names
    assert int(driver.cuuint64_t(2**64 - 1)) == 2**64 - 1


if __name__ == "__main__":
    globals()[sys.argv[1]]()
