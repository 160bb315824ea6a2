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
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library
from omnigen2_rt.runtime.errors import BackendError
from tests.exporter.engines.fake_cuda import FakeCuda


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine with everything; `without` removes a package."""
    trt = ModuleType("tensorrt")
    trt.__version__ = "11.4.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(tensorrt_library, "import_cudart", FakeCuda)
    absent: set[str] = set()
    monkeypatch.setattr(
        tensorrt_library, "find_spec", lambda name: None if name in absent else importlib.util.find_spec("json")
    )
    return SimpleNamespace(trt=trt, without=absent.add)


def test_machine_with_everything_has_no_problem(machine: Any) -> None:
    assert tensorrt_library.problem() is None
    assert tensorrt_library.build_problem() is None


def test_missing_tensorrt_names_the_extra(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = str(tensorrt_library.problem())
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
    assert "libnvinfer.so.11" in str(tensorrt_library.tensorrt_problem())


def test_old_tensorrt_is_named_with_the_oldest_that_works(machine: Any) -> None:
    machine.trt.__version__ = "10.13.3"
    assert tensorrt_library.problem() == "TensorRT 10.13.3 is older than 10.15: pip install --upgrade tensorrt"


def test_missing_driver_and_missing_gpu_have_different_messages(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDriver(FakeCuda):
        def cudaGetDeviceCount(self) -> Any:
            raise RuntimeError("Failed to dlopen libcuda.so.1\nmore")

    class NoGpu(FakeCuda):
        def cudaGetDeviceCount(self) -> Any:
            return self.cudaError_t.cudaSuccess, 0

    monkeypatch.setattr(tensorrt_library, "import_cudart", NoDriver)
    message = "CUDA can't be used (Failed to dlopen libcuda.so.1): install the NVIDIA driver"
    assert tensorrt_library.problem() == message
    monkeypatch.setattr(tensorrt_library, "import_cudart", NoGpu)
    assert tensorrt_library.problem() == "CUDA finds no GPU (cudaSuccess): check the NVIDIA driver with nvidia-smi"


def test_several_missing_parts_are_all_named(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Any:
        raise BackendError("cuda-python is not installed")

    monkeypatch.setattr(tensorrt_library, "import_cudart", missing)
    machine.trt.__version__ = "10.13.3"
    for name in ("polygraphy", "triton", "onnx"):
        machine.without(name)
    message = str(tensorrt_library.build_problem())
    assert [message.count(part) for part in ("10.13.3", "cuda-python", "polygraphy", "triton", "onnx,")] == [1] * 5
    assert 'pip install "omnigen2-rt[export]"' in message


def test_missing_triton_leaves_native_rope(machine: Any) -> None:
    machine.without("triton")
    assert "--rope native" in str(tensorrt_library.build_problem())
    assert tensorrt_library.build_problem("native") is None
    assert tensorrt_library.problem() is None, "an engine that is built needs no Triton"


def test_doctor_reports_what_is_missing_to_run_and_to_build(machine: Any) -> None:
    machine.without("polygraphy")
    machine.trt.__version__ = "10.13.3"
    finished = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    report = json.loads(finished.stdout)
    assert report["backends"]["tensorrt"] == "no: TensorRT 10.13.3 is older than 10.15: pip install --upgrade tensorrt"
    assert "polygraphy, which builds engines, is not installed" in report["building engines"]
