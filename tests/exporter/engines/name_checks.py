"""Every TensorRT and CUDA name that our code uses exists in the real bindings. Run by `test_tensorrt.py`."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path
from typing import Any

import tensorrt as trt

ROOT = Path(__file__).resolve().parents[3]
RUNTIME, EXPORTER = "runtime/backends/tensorrt", "exporter/engines"
LIBRARY, BACKEND, CUDA = f"{RUNTIME}/library.py", f"{RUNTIME}/backend.py", f"{RUNTIME}/cuda.py"
CALLBACKS = f"{EXPORTER}/callbacks.py"
SHARED = (
    LIBRARY,
    BACKEND,
    CALLBACKS,
    f"{RUNTIME}/session.py",
    f"{EXPORTER}/engine_builder.py",
    f"{EXPORTER}/network.py",
)
"""The files that work on either library's objects."""
STANDARD = (f"{RUNTIME}/standard.py", f"{EXPORTER}/standard.py", "plugins/omni_rope/plugin.py")
RTX = (f"{RUNTIME}/rtx.py", f"{EXPORTER}/rtx.py")
RECEIVERS = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "engine": "ICudaEngine",
    "_engine": "ICudaEngine",
    "layer": "IAttentionInputLayer",
    "made": "IOptimizationProfile",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_error": "ParserError",
    "query": "ITensor",
    "refitter": "Refitter",
    "runtime": "Runtime",
    "_runtime": "Runtime",
    "_runtime_cache": "IRuntimeCache",
    "_runtime_config": "IRuntimeConfig",
    "timings": "ITimingCache",
}
"""The class of a variable of this name, which must have the attributes that our code uses."""
EXCEPTIONS = {(BACKEND, "parser"): "OnnxParserRefitter"}
OWN_OBJECTS = {(f"{EXPORTER}/engine_builder.py", "builder"): {"library", "advice", "load_timings", "configure"}}
"""Attributes of our own objects in variables of these names."""


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


def checked_names(module: Any, files: tuple[str, ...]) -> tuple[set[str], list[str]]:
    """The names that exist in a library's module, and those that are missing."""
    roots = {"trt": module, "_trt": module, "trtp": getattr(module, "plugin", None)}
    existing, missing = set(), []
    for file in files:
        for names in used_names(ROOT / file):
            first, *rest = names
            if not rest or rest[0] in OWN_OBJECTS.get((file, first), ()):
                continue
            class_name = EXCEPTIONS.get((file, first), RECEIVERS.get(first))
            holder: Any = roots.get(first) if first in roots else getattr(module, class_name) if class_name else None
            if holder is None:
                continue
            for name in rest if first in roots else rest[:1]:
                if not hasattr(holder, name):
                    missing.append(f"{file}: {'.'.join(names)}")
                    break
                holder = getattr(holder, name)
                existing.add(".".join(names))
    return existing, missing


def tensorrt_names_all_exist() -> None:
    import tensorrt.plugin

    assert tensorrt.plugin is trt.plugin
    existing, missing = checked_names(trt, (*SHARED, *STANDARD))
    assert not missing, missing
    assert len(existing) > 60, f"only {len(existing)} names were checked, so the walk misses some: {sorted(existing)}"


def every_receiver_is_still_in_use() -> None:
    """A renamed variable would leave the walk with nothing to check."""
    used = {file: used_names(ROOT / file) for file in (*SHARED, *STANDARD, *RTX)}
    variables = {names[0] for file in used for names in used[file] if len(names) > 1}
    assert RECEIVERS.keys() <= variables, RECEIVERS.keys() - variables
    for (file, variable), attributes in OWN_OBJECTS.items():
        assert attributes <= {names[1] for names in used[file] if names[0] == variable and len(names) > 1}


def libraries_are_used_nowhere_else() -> None:
    """Every file that imports a library, or gets one as an argument, is in one of the lists."""
    folders = ("exporter", "runtime", "plugins", "reference", "commands", "nano", "evaluation")
    sources = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    roots = {"trt", "_trt", "trtp"}
    using = {path for path in [*sources, ROOT / "cli.py"] if any(names[0] in roots for names in used_names(path))}
    assert {str(path.relative_to(ROOT)) for path in using} == {*SHARED, *STANDARD, *RTX}


SUBCLASSED = {"IProgressMonitor": CALLBACKS, "IStreamWriter": CALLBACKS, "ILogger": LIBRARY}


def tensorrt_subclasses_override_real_methods() -> None:
    for name, file in SUBCLASSED.items():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        classes = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and any(ast.unparse(parent) == f"trt.{name}" for parent in node.bases)
        ]
        assert len(classes) == 1
        methods = {entry.name for entry in classes[0].body if isinstance(entry, ast.FunctionDef)}
        base = getattr(trt, name)
        expected = {entry for entry in dir(base) if inspect.isroutine(getattr(base, entry)) and not entry.startswith("_")}
        assert {entry for entry in methods if not entry.startswith("_")} == expected, (name, methods, expected)


def tensorrt_enumerations_have_our_names() -> None:
    from omnigen2_rt.exporter.engines.options import HARDWARE_COMPATIBILITY
    from omnigen2_rt.runtime.dtypes import DTYPES

    assert {row.tensorrt for row in DTYPES.values()} <= trt.DataType.__members__.keys()
    assert {level.upper() for level in HARDWARE_COMPATIBILITY} == set(trt.HardwareCompatibilityLevel.__members__)


def log_takes_the_real_base_and_keeps_errors_and_memory() -> None:
    from omnigen2_rt.runtime.backends.tensorrt.library import make_log, take_errors

    log, severity = make_log(trt), trt.ILogger.Severity
    assert isinstance(log, trt.ILogger) and make_log(trt) is log
    for level in severity.__members__.values():
        log.log(level, f"{level.name}\ntext")
    log.log(severity.INFO, "Max Scratch Memory: 1 bytes")
    assert take_errors(log) == "INTERNAL_ERROR text; ERROR text"
    assert list(log.memory) == ["Max Scratch Memory: 1 bytes"]


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
