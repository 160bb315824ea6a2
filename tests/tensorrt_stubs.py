"""TensorRT's real Python bindings with stubs in place of its three libraries, for tests on a machine without a GPU.

The bindings (`tensorrt-cu13-bindings`, a small wheel) are linked against libraries that need a GPU and hundreds of megabytes.
They use nine C functions of them. With stubs that return null, `import tensorrt` succeeds, and a test can check our code
against the real classes, enumerations and plugin decorators. Nothing can be built or run: a builder, a runtime or the plugin
registry is None or an error.

The loader must find the libraries before Python starts, so such code runs in a separate process: `run_with_stubs`.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FUNCTIONS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

needs_compiler = pytest.mark.skipif(
    COMPILER is None or sys.platform != "linux",
    reason="TensorRT's stub libraries need Linux and a C compiler (cc, gcc or clang) on PATH",
)

# The `tensorrt` package only re-exports the bindings; NVIDIA serves it from its own index.
PACKAGE = "import sys, tensorrt_bindings\nsys.modules['tensorrt'] = tensorrt_bindings\n"


def stub_libraries(folder: Path) -> Path:
    """Compile the stubs into `folder` and write a `tensorrt` package there. Returns the folder.

    Put it on LD_LIBRARY_PATH for the libraries and on PYTHONPATH for the package.
    """
    assert COMPILER, "stub libraries need a C compiler: mark the test with needs_compiler"
    major = importlib.metadata.version("tensorrt-cu13-bindings").partition(".")[0]
    for library, functions in FUNCTIONS.items():
        name = f"lib{library}.so.{major}"
        source = folder / f"{library}.c"
        source.write_text("".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions))
        command = [COMPILER, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(PACKAGE)
    return folder


def run_with_stubs(code: str, *, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    """Run Python code in the repository's root, with this process's import path, so that `import tensorrt` works."""
    with tempfile.TemporaryDirectory() as name:
        folder = stub_libraries(Path(name))
        path = os.pathsep.join([str(folder), *filter(None, sys.path)])
        environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), "PYTHONPATH": path}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s)
