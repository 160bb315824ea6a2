"""TensorRT: engines that `omnigen2 build` left in the bundle, run on one stream with one scratch buffer.

Knows engines, contexts and device addresses, and nothing of what the engines compute. Tensors pass between components on the
device; the host only copies what the pipeline asks for. No engine is built here, and none is loaded that doesn't fit.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..bundle import Bundle, GraphSpec
from ..errors import BackendError
from .backend import DeviceArray
from .cuda import Device, DeviceTensor, import_cudart
from .engines import FOLDER, EngineRecord, Machine, find_engine

PRECISIONS = ("bf16", "fp16", "fp32")
CAPTURED = frozenset({"transformer"})
"""Components that run often with the same shapes: each shape becomes a CUDA graph."""
MOST_CAPTURES = 8
TENSOR_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "BOOL": "bool"}


def import_tensorrt() -> Any:
    """The tensorrt module, or BackendError that says which extra brings it."""
    try:
        import tensorrt
    except ImportError as error:
        raise BackendError(f'TensorRT can\'t be loaded ({error}): pip install "omnigen2-rt[tensorrt]"') from None
    return tensorrt


def problem() -> str | None:
    """Why this backend can't work here, or None."""
    try:
        trt = import_tensorrt()
        cudart = import_cudart()
    except BackendError as error:
        return str(error)
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if version < (10, 15):
        return f"TensorRT {trt.__version__} is older than 10.15: pip install --upgrade tensorrt"
    try:
        status, count = cudart.cudaGetDeviceCount()
    except RuntimeError as error:  # cuda-python raises where the driver's library is missing
        return f"CUDA can't be used: {str(error).strip().splitlines()[0]}"
    if status != cudart.cudaError_t.cudaSuccess or not count:
        return "CUDA finds no GPU: check the NVIDIA driver with nvidia-smi"
    return None


def this_machine(device: Device | None = None) -> Machine:
    """What an engine built here is bound to. Raises BackendError where CUDA can't tell."""
    device = device or Device()
    return Machine(
        tensorrt=str(import_tensorrt().__version__),
        gpu=device.name(),
        compute_capability=device.compute_capability(),
        driver=device.driver(),
    )


class TensorRTBackend:
    """Opens a bundle's engines. `streams_weights`: engines built for it keep weights in host memory."""

    def __init__(self, bundle: Bundle, precision: str, streams_weights: bool = False) -> None:
        reason = problem()
        if reason is not None:
            raise BackendError(reason)
        self.name = "tensorrt"
        self.precision = precision
        self.device = Device()
        self._bundle = bundle
        self._trt = import_tensorrt()
        self._errors = make_error_recorder(self._trt)
        self._logger = make_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._runtime.error_recorder = self._errors
        self._streams_weights = streams_weights
        self._machine = this_machine(self.device)
        self._scratch: DeviceTensor | None = None
        self._sessions: weakref.WeakSet[TensorRTSession] = weakref.WeakSet()

    def open(self, component: str) -> TensorRTSession:
        """See Backend.open. Raises BackendError where no engine fits this machine and this bundle."""
        record = find_engine(self._bundle, component, self.precision, self._machine)
        if record.key["options"].get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # such a plan carries its own small runtime: it is code
        self.device.synchronize()
        engine = self._runtime.deserialize_cuda_engine((self._bundle.path / FOLDER / record.plan).read_bytes())
        if engine is None:
            raise BackendError(f"TensorRT can't load {record.plan}: {self.take_errors()}")
        spec = self._bundle.graph(component, self.precision)
        if record.key["options"].get("strip_plan"):
            self._refit(engine, record, spec)
        if self._streams_weights and engine.streamable_weights_size:
            engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
        session = TensorRTSession(engine, spec, self, self._trt)
        self._sessions.add(session)
        return session

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        return self.device.upload(array, dtype)

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        return self.device.download(array)

    def scratch(self, nbytes: int) -> DeviceTensor:
        """The scratch that all contexts share, at least `nbytes` large. Captures hold its address, so growing drops them."""
        if self._scratch is None or self._scratch.nbytes < nbytes:
            for session in self._sessions:
                session.drop_captures()
            self._scratch = None
            self._scratch = DeviceTensor(self.device, (nbytes,), "uint8")
        return self._scratch

    def take_errors(self) -> str:
        """What TensorRT has reported since the last call, as one line."""
        told = "; ".join(" ".join(text.split()) for _, text in self._errors.reported)
        self._errors.clear()
        return told or "it gave no reason"

    def _refit(self, engine: Any, record: EngineRecord, spec: GraphSpec) -> None:
        """Give a stripped plan its weights, from the graph that it was built from."""
        native = record.key["rope"] == "native" and spec.inlined is not None
        path = self._bundle.path / (spec.inlined if native and spec.inlined else spec.file)
        refitter = self._trt.Refitter(engine, self._logger)
        parser = self._trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(path)) or not refitter.refit_cuda_engine():
            raise BackendError(f"TensorRT can't give {record.plan} its weights from {path.name}: {self.take_errors()}")


class TensorRTSession:
    """A loaded engine: a context per profile, made when first wanted."""

    def __init__(self, engine: Any, spec: GraphSpec, backend: TensorRTBackend, trt: Any) -> None:
        self._engine = engine
        self._spec = spec
        self._backend = backend
        self._trt = trt
        self._contexts: dict[int, Any] = {}
        self._captures: dict[tuple[Any, ...], _Capture] = {}
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        if names != spec.inputs.keys() | spec.outputs.keys():
            raise BackendError(f"the engine of {spec.component} has tensors {sorted(names)}: build it again")

    def run(self, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """See Session.run."""
        spec, device = self._spec, self._backend.device
        if feeds.keys() != spec.inputs.keys():
            wrong = sorted(feeds.keys() ^ spec.inputs.keys())
            raise BackendError(f"{spec.component} takes {', '.join(spec.inputs)}; missing or unknown: {wrong}")
        inputs = {name: self._on_device(name, array) for name, array in feeds.items()}
        if spec.component not in CAPTURED:
            outputs = self._enqueue(inputs)
            return outputs
        shapes = tuple((name, tensor.shape) for name, tensor in sorted(inputs.items()))
        capture = self._captures.get(shapes)
        if capture is None:
            outputs = self._enqueue(inputs)  # TensorRT wants one plain run of a shape before it is captured
            self._capture(shapes, inputs, outputs)
            return outputs
        for name, tensor in inputs.items():
            device.copy(tensor, capture.inputs[name])
        device.launch(capture.executable)
        outputs = {name: DeviceTensor(device, tensor.shape, tensor.dtype) for name, tensor in capture.outputs.items()}
        for name, tensor in outputs.items():
            device.copy(capture.outputs[name], tensor)
        return outputs

    def drop_captures(self) -> None:
        """Forget the CUDA graphs; they are made again when their shapes come back."""
        if self._captures:
            self._backend.device.synchronize()
        for capture in self._captures.values():
            self._backend.device.discard(capture.executable)
        self._captures.clear()

    def __del__(self) -> None:
        if getattr(self, "_captures", None):
            self.drop_captures()

    def _enqueue(self, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        context = self._prepare(inputs)
        outputs = {name: self._output(context, name) for name in self._spec.outputs}
        self._execute(context, {**inputs, **outputs})
        return outputs

    def _prepare(self, inputs: Mapping[str, DeviceTensor]) -> Any:
        """A context of the profile that fits, with its shapes set and its scratch in place."""
        profile = self._profile(inputs)
        context = self._context(profile)
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tensor.shape):
                raise self._failure(f"it refused {name} of shape {tensor.shape}")
        unknown = context.infer_shapes()
        if unknown:
            raise self._failure(f"the shapes of {', '.join(unknown)} stay unknown")
        needed = int(self._engine.get_device_memory_size_for_profile_v2(profile))
        scratch = self._backend.scratch(needed)
        context.set_device_memory(scratch.address, scratch.nbytes)
        return context

    def _execute(self, context: Any, tensors: Mapping[str, DeviceTensor]) -> None:
        for name, tensor in tensors.items():
            if not context.set_tensor_address(name, tensor.address):
                raise self._failure(f"it refused the address of {name}")
        if not context.execute_async_v3(self._backend.device.stream):
            raise self._failure("it did not run")

    def _profile(self, inputs: Mapping[str, DeviceTensor]) -> int:
        """The first profile that holds all shapes, the one with the nearest typical shapes where several do."""
        fitting = []
        for profile in range(self._engine.num_optimization_profiles):
            distance = 0
            for name, tensor in inputs.items():
                least, typical, most = self._engine.get_tensor_profile_shape(name, profile)
                if any(not a <= size <= b for a, size, b in zip(least, tensor.shape, most, strict=True)):
                    break
                distance += sum(abs(size - usual) for size, usual in zip(tensor.shape, typical, strict=True))
            else:
                fitting.append((distance, profile))
        if not fitting:
            shapes = {name: tensor.shape for name, tensor in inputs.items()}
            raise BackendError(
                f"the engine of {self._spec.component} was not built for {shapes}: run `omnigen2 build` with larger limits "
                "(--max-size, --max-references, --max-images, --max-prompt-tokens)"
            )
        return min(fitting)[1]

    def _context(self, profile: int) -> Any:
        if profile not in self._contexts:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = self._engine.create_execution_context(strategy)
            if context is None:
                raise self._failure("it gave no execution context")
            if not context.set_optimization_profile_async(profile, self._backend.device.stream):
                raise self._failure(f"it refused profile {profile}")
            self._contexts[profile] = context
        return self._contexts[profile]

    def _output(self, context: Any, name: str) -> DeviceTensor:
        shape = tuple(context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise self._failure(f"the shape of {name} stays unknown: {shape}")
        dtype = self._engine.get_tensor_dtype(name).name
        return DeviceTensor(self._backend.device, shape, TENSOR_NAMES[dtype])

    def _capture(
        self, shapes: tuple[Any, ...], inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]
    ) -> None:
        device = self._backend.device
        if len(self._captures) >= MOST_CAPTURES:
            self.drop_captures()
        fixed = [
            {name: DeviceTensor(device, tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
            for tensors in (inputs, outputs)
        ]
        context = self._prepare(inputs)
        device.synchronize()
        executable = device.capture(lambda: self._execute(context, {**fixed[0], **fixed[1]}))
        self._captures[shapes] = _Capture(executable, *fixed)

    def _on_device(self, name: str, array: DeviceArray | np.ndarray) -> DeviceTensor:
        spec = self._spec.inputs[name]
        tensor = self._backend.device.upload(array, spec.dtype) if isinstance(array, np.ndarray) else array
        if len(tensor.shape) != len(spec.shape) or tensor.dtype != spec.dtype:
            raise BackendError(
                f"{self._spec.component} takes {name} of shape {spec.shape} in {spec.dtype}; "
                f"it was given {tensor.shape} in {tensor.dtype}"
            )
        return tensor

    def _failure(self, what: str) -> BackendError:
        return BackendError(
            f"TensorRT ran {self._spec.component} into an error: {what} ({self._backend.take_errors()})"
        )


class _Capture:
    """A CUDA graph of one shape and the tensors whose addresses it holds."""

    def __init__(self, executable: Any, inputs: dict[str, DeviceTensor], outputs: dict[str, DeviceTensor]) -> None:
        self.executable = executable
        self.inputs = inputs
        self.outputs = outputs


def make_logger(trt: Any) -> Any:
    """A logger that keeps quiet: what matters reaches the error recorder."""
    return trt.Logger(trt.Logger.INTERNAL_ERROR)


def make_error_recorder(trt: Any) -> Any:
    """TensorRT's errors as a list, `reported`: pairs of code and text."""

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
