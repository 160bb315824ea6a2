"""ONNX Runtime: the CPU and CUDA backends.

Knows ONNX Runtime's sessions and values, and nothing of what the graphs mean. Values stay on the provider's device (`OrtValue`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..bundle import Bundle
from ..dtypes import BFLOAT16, numpy_dtype
from ..errors import BackendError
from ..manifest import GraphSpec
from .backend import DeviceArray, check_names

PROVIDERS = {"ort-cpu": "CPUExecutionProvider", "ort-cuda": "CUDAExecutionProvider"}
PRECISIONS = {"ort-cpu": ("fp32", "fp16"), "ort-cuda": ("bf16", "fp16", "fp32")}
QUANTIZED = ("fp16", "fp32")
"""The precisions of quantized graphs: in bf16 its CUDA provider (1.32) has no DequantizeLinear either."""
CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
"""Float32 stays float32. By default cuDNN tries every algorithm at each new size, and for bfloat16 its choice then took 388 ms
for a picture of 1024×1024 from the full-size decoder; the heuristic's choice takes 80 ms (H200, ONNX Runtime 1.31)."""
WIDEN = bytes.fromhex(
    "080a3a320a170a01781201792204436173742a090a02746f1801a001021201675a090a017812040a02081062090a017912040a02080142040a001017"
)
"""The ONNX model y = Cast(x) to float32 of a bfloat16 x of any shape: ONNX Runtime can't return bfloat16 as numpy."""
FATAL = 4
TELEMETRY_SWITCH = "ORT_DISABLE_TELEMETRY"


def import_onnxruntime() -> Any:
    """The onnxruntime module, or BackendError that says which extra brings it.

    When it is imported it reads whether it may report its use over the network. It may not, unless the user or the program has
    said so; a program that imported it before has decided for itself.
    """
    os.environ.setdefault(TELEMETRY_SWITCH, "1")
    try:
        import onnxruntime
    except ImportError:
        raise BackendError(
            'no ONNX Runtime is installed: pip install "omnigen2-rt[cpu]" (or "omnigen2-rt[gpu]" for CUDA)'
        ) from None
    return onnxruntime


def problem(name: str) -> str | None:
    """Why this backend can't work here, or None."""
    try:
        onnxruntime = import_onnxruntime()
    except BackendError as error:
        return str(error)
    if PROVIDERS[name] not in onnxruntime.get_available_providers():
        return (
            f"this onnxruntime has no {PROVIDERS[name]}. On a machine with an NVIDIA GPU: pip uninstall onnxruntime, "
            'then pip install "omnigen2-rt[gpu]"'
        )
    return None


class OrtBackend:
    """Opens a bundle's graphs with ONNX Runtime. On CUDA it silences the library's default logger, for the whole process.

    streams_weights: read the weights at every run instead of keeping copies. Then nothing is folded or packed: a run is slower,
    and the process holds one layer's converted weights at a time.
    """

    def __init__(
        self, bundle: Bundle, name: str, precision: str, threads: int | None = None, streams_weights: bool = False
    ) -> None:
        reason = problem(name)
        if reason is not None:
            raise BackendError(reason)
        self.name = name
        self.precision = self.graph_precision = precision
        self._bundle = bundle
        self._ort = import_onnxruntime()
        self.device = "cpu"
        self._providers: list[Any] = [PROVIDERS[name]]
        if name == "ort-cuda":
            self._use_cuda()
        self._widening: Any = None
        self._threads = threads
        self._streams_weights = streams_weights

    def open(self, component: str) -> OrtSession:
        """See Backend.open."""
        spec = self._bundle.graph(component, self.precision)
        return OrtSession(self._create(self._bundle.path / spec.file, spec.file), spec, self)

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        host = np.array(array, numpy_dtype(dtype), order="C")  # a copy: on a CPU the value is this very memory
        values = self._ort.OrtValue
        if dtype == BFLOAT16.name:
            return values.ortvalue_from_numpy_with_onnx_type(host.view(np.uint16), BFLOAT16.onnx)
        return values.ortvalue_from_numpy(host, self.device, 0)

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        if array.element_type() == BFLOAT16.onnx:
            array = self._widened(array)
        # A copy: a value made from a numpy array doesn't keep that array alive for a view of it.
        return np.array(array.numpy())

    def _use_cuda(self) -> None:
        """Selects CUDA, and silences the library's log: in 16 bits it prints dozens of cuDNN's refusals at each new size."""
        self.device = "cuda"
        self._providers = [(PROVIDERS[self.name], CUDA_OPTIONS), "CPUExecutionProvider"]
        self._ort.set_default_logger_severity(FATAL)

    def _widened(self, array: DeviceArray) -> DeviceArray:
        if self._widening is None:
            self._widening = self._create(WIDEN, "its cast from bfloat16")
        binding = self._widening.io_binding()
        binding.bind_ortvalue_input("x", array)
        binding.bind_output("y", self.device)
        self._widening.run_with_iobinding(binding)
        return binding.get_outputs()[0]

    def _create(self, model: Path | bytes, name: str) -> Any:
        """A session on this backend's provider. Raises BackendError where it would fall back to the CPU."""
        options = self._ort.SessionOptions()
        options.log_severity_level = 3
        # Every session has threads of its own. After a run they would go on spinning on the cores that the next session needs:
        # with two cores and two sessions a token, that doubled the time.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        disabled = []
        if self._streams_weights:
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
            disabled = ["ConstantFolding"]
        try:
            session = self._ort.InferenceSession(
                model, options, providers=self._providers, disabled_optimizers=disabled, enable_fallback=0
            )
        except Exception as error:  # onnxruntime raises a dozen types whose only common parent is this
            raise BackendError(f"ONNX Runtime can't open {name}: {_first_line(error)}") from error
        if PROVIDERS[self.name] not in session.get_providers():
            raise BackendError(f"ONNX Runtime opened {name} without {PROVIDERS[self.name]}: CUDA or cuDNN can't be loaded here")
        return session


class OrtSession:
    """One opened graph. Inputs are checked by name and rank; their dynamic sizes are the engine's to check."""

    def __init__(self, session: Any, spec: GraphSpec, backend: OrtBackend) -> None:
        self._session = session
        self._spec = spec
        self._backend = backend

    def run(self, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """See Session.run."""
        check_names(self._spec, feeds)
        binding = self._session.io_binding()
        values = {name: self._value(name, array) for name, array in feeds.items()}
        try:
            for name, value in values.items():
                binding.bind_ortvalue_input(name, value)
            for name in self._spec.outputs:
                binding.bind_output(name, self._backend.device)
            self._session.run_with_iobinding(binding)
        except Exception as error:  # see OrtBackend._create
            shapes = {name: tuple(value.shape()) for name, value in values.items()}
            raise BackendError(f"{self._spec.component} failed on {shapes}: {_first_line(error)}") from error
        return dict(zip(self._spec.outputs, binding.get_outputs(), strict=True))

    def _value(self, name: str, array: DeviceArray | np.ndarray) -> Any:
        spec = self._spec.inputs[name]
        value = self._backend.to_device(array, spec.dtype) if isinstance(array, np.ndarray) else array
        if len(value.shape()) != len(spec.shape):
            raise BackendError(
                f"{self._spec.component} takes {name} of shape {spec.shape}; it was given {tuple(value.shape())}"
            )
        return value


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
