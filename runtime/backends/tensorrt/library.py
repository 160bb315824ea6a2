"""NVIDIA's software on this machine: TensorRT's module, logger and errors, CUDA, and the versions that an engine is bound to.

Knows no bundle and no engine. Builder and backend share this.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ...errors import BackendError
from .cuda import Device, import_cudart
from .engines import Machine

OLDEST = (10, 15)
"""The first TensorRT that takes RMSNormalization, RotaryEmbedding and a node's plugin before its function."""

BUILDING = {
    "polygraphy": "polygraphy, which builds engines",
    "onnx": "onnx, which reads the graphs",
    "triton": "triton, which compiles the plugin's kernel (or build with --rope native)",
}
EXTRAS = {"onnx": "export"}


def import_tensorrt() -> Any:
    """The tensorrt module, or BackendError that says which extra brings it."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:  # OSError: its loader looks for the libraries by hand
        raise BackendError(f'TensorRT can\'t be loaded ({error}): pip install "omnigen2-rt[tensorrt]"') from None
    return tensorrt


def problem() -> str | None:
    """Why engines can't run here, or None. Names everything that is missing."""
    return "; ".join(filter(None, (tensorrt_problem(), cuda_problem()))) or None


def build_problem(rope: str = "plugin") -> str | None:
    """Why engines can't be built here, or None. rope: "plugin" needs Triton as well."""
    missing = [
        f'{purpose}, is not installed: pip install "omnigen2-rt[{EXTRAS.get(name, "tensorrt")}]"'
        for name, purpose in BUILDING.items()
        if (name != "triton" or rope == "plugin") and find_spec(name) is None
    ]
    return "; ".join([*filter(None, [problem()]), *missing]) or None


def tensorrt_problem() -> str | None:
    """Why TensorRT itself can't be used, or None."""
    try:
        trt = import_tensorrt()
    except BackendError as error:
        return str(error)
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"TensorRT {trt.__version__} is older than {oldest}: pip install --upgrade tensorrt"
    return None


def cuda_problem() -> str | None:
    """Why CUDA can't be used, or None."""
    try:
        cudart = import_cudart()
    except BackendError as error:
        return str(error)
    try:
        status, count = cudart.cudaGetDeviceCount()
    except RuntimeError as error:  # cuda-python raises where the driver's library is missing
        return f"CUDA can't be used ({str(error).strip().splitlines()[0]}): install the NVIDIA driver"
    if status != cudart.cudaError_t.cudaSuccess or not count:
        reason = getattr(status, "name", status)
        return f"CUDA finds no GPU ({reason}): check the NVIDIA driver with nvidia-smi"
    return None


def this_machine(device: Device | None = None) -> Machine:
    """The versions and the GPU that an engine built here is bound to. Raises BackendError where CUDA fails."""
    device = device or Device()
    return Machine(
        tensorrt=str(import_tensorrt().__version__),
        gpu=device.name(),
        compute_capability=device.compute_capability(),
        driver=device.driver(),
    )


def make_logger(trt: Any) -> Any:
    """A logger that prints nothing but internal errors: the error recorder gets the rest."""
    return trt.Logger(trt.Logger.INTERNAL_ERROR)


def make_error_recorder(trt: Any) -> Any:
    """A recorder of TensorRT's errors: `reported` lists codes and texts. Objects of TensorRT that use it must not outlive it."""

    class Recorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.reported: list[tuple[Any, str]] = []

        def num_errors(self) -> int:
            return len(self.reported)

        def get_error_code(self, index: int) -> Any:
            return self.reported[index][0]

        def get_error_desc(self, index: int) -> str:
            return self.reported[index][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            self.reported.clear()

        def report_error(self, code: Any, description: str) -> bool:
            self.reported.append((code, description))
            return True

    return Recorder()


def take_errors(recorder: Any) -> str:
    """The errors since the last call, as one line; clears the recorder."""
    line = as_line(text for _, text in recorder.reported)
    recorder.clear()
    return line


def parser_errors(parser: Any) -> str:
    """The errors of TensorRT's ONNX parser or its refitter as one line: the node, where there is one, and the reason."""
    errors = []
    for index in range(parser.num_errors):
        parser_error = parser.get_error(index)
        about = f"{parser_error.node_operator()} {parser_error.node_name()}: " if parser_error.node() >= 0 else ""
        errors.append(about + parser_error.desc())
    return as_line(errors)


def as_line(texts: Any) -> str:
    """Texts of TensorRT as one line; says so where there are none."""
    return "; ".join(" ".join(str(text).split()) for text in texts) or "it gave no reason"
