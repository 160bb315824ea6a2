"""The runtime, nano and evaluation import where PyTorch and onnx can't be imported, whatever this environment has installed."""

from __future__ import annotations

import subprocess
import sys

from tests.repository.sources import EXPORTER_LIBRARIES, PACKAGE, modules

BLOCK_AND_IMPORT = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked by this test", name=name)

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Blocked())
for module in sys.argv[2:]:
    importlib.import_module(module)
print(",".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""

ENGINES = {"cuda", "onnxruntime", "openvino", "polygraphy", "tensorrt", "triton"}
"""Imported by the functions that need them: asking which backends there are must work without them."""


def loaded_after_importing(names: list[str], *, blocked: set[str]) -> set[str]:
    """Import modules in a fresh interpreter without the `blocked` libraries. Returns the top-level modules it loaded."""
    command = [sys.executable, "-W", "error", "-c", BLOCK_AND_IMPORT, ",".join(sorted(blocked)), *names]
    finished = subprocess.run(command, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return set(finished.stdout.strip().split(","))


def test_blocked_exporter_libraries_leave_the_runtime_nano_and_evaluation_importable() -> None:
    light = {name: path for name, path in modules().items() if path.parts[:2] != ("nano", "training")}
    names = sorted(name for name, path in light.items() if path.parts[0] in ("evaluation", "nano", "runtime"))
    loaded_after_importing(names, blocked=EXPORTER_LIBRARIES | ENGINES)


def test_blocked_exporter_libraries_leave_the_plugins_importable() -> None:
    """An operator's package holds its names only; the ONNX function and the kernel are files beside it."""
    packages = [name for name, path in modules().items() if path.parts[0] == "plugins" and path.name == "__init__.py"]
    loaded_after_importing(sorted(packages), blocked=EXPORTER_LIBRARIES | ENGINES)


def test_public_api_import_loads_no_engine() -> None:
    """An engine costs a tenth of a second and may not be installed; it is loaded when a bundle is."""
    loaded = loaded_after_importing([PACKAGE], blocked=EXPORTER_LIBRARIES | ENGINES)
    assert "typer" not in loaded


def test_blocked_exporter_libraries_leave_merging_loras_importable() -> None:
    """A LoRA is merged where only the runtime's libraries are installed, when a picture is drawn with it."""
    names = [f"{PACKAGE}.exporter.{module}" for module in ("lora_bundle", "lora_store")]
    loaded_after_importing(names, blocked=EXPORTER_LIBRARIES | ENGINES)


def test_blocked_pytorch_leaves_quantizing_importable() -> None:
    """It works on bundles: graphs, numpy and an engine."""
    names = sorted(name for name, path in modules().items() if path.parts[:2] == ("exporter", "quantize"))
    loaded_after_importing(names, blocked={"torch", "transformers", "onnxscript"})


def test_blocked_exporter_libraries_leave_rewriting_and_pairs_importable() -> None:
    names = sorted(name for name, path in modules().items() if path.parts[0] in ("pairs", "rewriting"))
    loaded_after_importing(names, blocked=EXPORTER_LIBRARIES | ENGINES)
