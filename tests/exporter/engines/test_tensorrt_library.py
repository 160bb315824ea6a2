"""Messages about missing parts of TensorRT: every part, and what to do; and the `doctor` command's report of them."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from omnigen2_rt.cli import app
from omnigen2_rt.exporter.engines import engine_builder
from omnigen2_rt.exporter.engines.builders import BUILDERS, choose_builder
from omnigen2_rt.runtime.backends.tensorrt import LIBRARIES, cuda
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library
from omnigen2_rt.runtime.errors import BackendError
from tests.exporter.engines.fake_cuda import FakeCuda

TENSORRT, BUILDER = LIBRARIES["tensorrt"], BUILDERS["tensorrt"]
UPGRADE = 'pip install --upgrade "omnigen2-rt[tensorrt]"'


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with everything; `without` removes a package."""
    trt = ModuleType("tensorrt")
    trt.__version__ = "11.4.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    for module in (tensorrt_library, cuda):
        monkeypatch.setattr(module, "import_cudart", FakeCuda)
    absent: set[str] = set()
    monkeypatch.setattr(
        engine_builder, "find_spec", lambda name: None if name in absent else importlib.util.find_spec("json")
    )
    return SimpleNamespace(trt=trt, without=absent.add)


def test_machine_with_everything_has_no_problem(machine: Any) -> None:
    assert TENSORRT.problem() is None
    assert BUILDER.problem("plugin") is None
    assert choose_builder("auto") is BUILDER


def test_missing_tensorrt_names_the_extra(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = str(TENSORRT.problem())
    assert message.startswith("TensorRT can't be loaded (") and 'pip install "omnigen2-rt[tensorrt]"' in message


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bindings are installed, NVIDIA's libraries are not: the loader's own message names the library."""
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    class Loader:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
            if name == "tensorrt":
                raise ImportError("libnvinfer.so.11: cannot open shared object file")
            return None

    monkeypatch.setattr(sys, "meta_path", [Loader(), *sys.meta_path])
    assert "libnvinfer.so.11" in str(TENSORRT.version_problem())


def test_old_tensorrt_is_named_with_the_oldest_that_works(machine: Any) -> None:
    machine.trt.__version__ = "10.13.3"
    assert TENSORRT.problem() == f"TensorRT 10.13.3 is older than 10.15: {UPGRADE}"


def test_missing_driver_and_missing_gpu_have_different_messages(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver(FakeCuda):
        def cudaGetDeviceCount(self) -> Any:
            raise RuntimeError("Failed to dlopen libcuda.so.1\nmore")

    class NoGpu(FakeCuda):
        def cudaGetDeviceCount(self) -> Any:
            return self.cudaError_t.cudaSuccess, 0

    monkeypatch.setattr(tensorrt_library, "import_cudart", NoDriver)
    message = "CUDA can't be used (Failed to dlopen libcuda.so.1): install the NVIDIA driver"
    assert TENSORRT.problem() == message
    monkeypatch.setattr(tensorrt_library, "import_cudart", NoGpu)
    assert TENSORRT.problem() == "CUDA finds no GPU (cudaSuccess): check the NVIDIA driver with nvidia-smi"


def test_several_missing_parts_are_all_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise BackendError("cuda-bindings is not installed")

    monkeypatch.setattr(tensorrt_library, "import_cudart", missing)
    machine.trt.__version__ = "10.13.3"
    machine.without("triton")
    message = str(BUILDER.problem("plugin"))
    assert [message.count(part) for part in ("10.13.3", "cuda-bindings", "triton, which")] == [1] * 3
    assert message.endswith('is not installed: pip install "omnigen2-rt[tensorrt]"')


def test_missing_triton_leaves_native_rope(machine: Any) -> None:
    machine.without("triton")
    assert "--rope native" in str(BUILDER.problem("plugin"))
    assert BUILDER.problem("native") is None
    assert TENSORRT.problem() is None, "an engine that is built needs no Triton"


def test_doctor_reports_what_is_missing_to_run_and_to_build(machine: Any) -> None:
    machine.without("triton")
    machine.trt.__version__ = "10.13.3"
    finished = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    report = json.loads(finished.stdout)
    assert report["backends"]["tensorrt"] == f"no: TensorRT 10.13.3 is older than 10.15: {UPGRADE}"
    building = report["building engines"]["tensorrt"]
    assert building.startswith("no: needs what `tensorrt` lacks above; triton, which compiles the plugin's kernel")
