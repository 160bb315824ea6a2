"""Every TensorRT and CUDA name that our code uses, found in the real bindings. Run by `test_tensorrt.py`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import tensorrt as trt

ROOT = Path(__file__).resolve().parents[2]
FILES = ("exporter/engine.py", "runtime/backends/tensorrt.py", "plugins/omni_rope/plugin.py")
RECEIVERS = {
    "context": trt.IExecutionContext,
    "engine": trt.ICudaEngine,
    "_engine": trt.ICudaEngine,
    "_runtime": trt.Runtime,
    "refitter": trt.Refitter,
    "parser": trt.OnnxParserRefitter,
}
"""What a variable of this name holds, and so which class must have what is asked of it."""
ROOTS = {"trt": trt, "_trt": trt, "trtp": None}


def chain(node: ast.Attribute) -> list[str]:
    """`self._trt.Logger.INTERNAL_ERROR` -> [self, _trt, Logger, INTERNAL_ERROR]; [] where it isn't plain names."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value  # type: ignore[assignment]
    return [node.id, *names] if isinstance(node, ast.Name) else []


def used(path: Path) -> set[tuple[str, ...]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    chains = [chain(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return {tuple(names[1:] if names[0] == "self" else names) for names in chains if names}


def missing_names() -> tuple[int, list[str]]:
    import tensorrt.plugin as trtp

    roots = {**ROOTS, "trtp": trtp}
    found, missing = 0, []
    for file in FILES:
        for names in used(ROOT / file):
            first, *rest = names
            holder = roots.get(first, RECEIVERS.get(first))
            if holder is None or not rest:
                continue
            asked = rest if first in roots else rest[:1]
            for name in asked:
                if not hasattr(holder, name):
                    missing.append(f"{file}: {'.'.join(names)}")
                    break
                holder = getattr(holder, name)
                found += 1
    return found, missing


def tensorrt_names_all_exist() -> None:
    found, missing = missing_names()
    assert not missing, missing
    assert found > 40, f"only {found} names were checked: the walk has lost them"


def tensorrt_subclasses_override_real_methods() -> None:
    ours = {"IProgressMonitor": "exporter/engine.py", "IErrorRecorder": "runtime/backends/tensorrt.py"}
    for name, file in ours.items():
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        classes = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and any(ast.unparse(parent) == f"trt.{name}" for parent in node.bases)
        ]
        assert len(classes) == 1
        methods = {entry.name for entry in classes[0].body if isinstance(entry, ast.FunctionDef)}
        real = {entry for entry in dir(getattr(trt, name)) if not entry.startswith("_")} - {"MAX_DESC_LENGTH"}
        assert {entry for entry in methods if not entry.startswith("_")} == real, (name, methods, real)


def tensorrt_types_are_all_named() -> None:
    from omnigen2_rt.runtime.backends.tensorrt import TENSOR_NAMES

    assert TENSOR_NAMES.keys() <= trt.DataType.__members__.keys()
    from omnigen2_rt.exporter.engine import HARDWARE

    assert set(HARDWARE.values()) == set(trt.HardwareCompatibilityLevel.__members__)


def error_recorder_takes_the_real_base() -> None:
    from omnigen2_rt.runtime.backends.tensorrt import make_error_recorder

    recorder = make_error_recorder(trt)
    assert isinstance(recorder, trt.IErrorRecorder)
    recorder.report_error(trt.ErrorCodeTRT.INTERNAL_ERROR, "text")
    assert (recorder.num_errors(), recorder.get_error_desc(0)) == (1, "text")


def cuda_names_all_exist() -> None:
    from cuda.bindings import runtime

    from tests.engines.fake_cuda import FakeCuda

    tree = ast.parse((ROOT / "runtime/backends/cuda.py").read_text(encoding="utf-8"))
    called = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith("cuda")
        and node.value.isalnum()
    }
    direct = {names[1] for names in used(ROOT / "runtime/backends/cuda.py") if names[0] == "_cudart" and len(names) > 1}
    assert len(called) >= 10
    for name in called | direct:
        assert hasattr(runtime, name), name
        assert hasattr(FakeCuda, name), f"the fake lacks {name}"
    for names in used(ROOT / "runtime/backends/cuda.py"):
        if names[0] == "_cudart" and len(names) == 3:
            assert hasattr(getattr(runtime, names[1]), names[2]), names


if __name__ == "__main__":
    globals()[sys.argv[1]]()
