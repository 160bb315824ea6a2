"""A loaded TensorRT engine at work: profiles, contexts, shapes, addresses, and CUDA graphs of the shapes that come back.

Everything goes onto the backend's one stream. Outputs are new tensors, so what one run gave is another's input by address: no
tensor, the language model's keys and values among them, is copied between two engines or two runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ...errors import BackendError
from ...manifest import GraphSpec
from ..backend import DeviceArray, check_names
from .cuda import Device, DeviceTensor

MOST_CAPTURES = 8
TENSOR_NAMES = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "INT64": "int64", "BOOL": "bool"}

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class Owner(Protocol):
    """What a session needs of its backend: the device, the scratch that all contexts share, and TensorRT's error recorder."""

    device: Device
    errors: Any

    def scratch(self, nbytes: int) -> DeviceTensor:
        """At least `nbytes` of scratch."""

    def take_errors(self) -> str:
        """What TensorRT has reported since the last call."""


class TensorRTSession:
    """An engine with a context per profile and one per captured shape. Raises BackendError where the engine isn't the graph's."""

    def __init__(self, engine: Any, spec: GraphSpec, backend: Owner, trt: Any) -> None:
        self._engine = engine
        self._spec = spec
        self._backend = backend
        self._trt = trt
        self._contexts: dict[int, Any] = {}
        self._seen: set[Shapes] = set()
        self._captures: dict[Shapes, _Capture] = {}
        # TensorRT: an engine that streams its weights can't be captured.
        self._may_capture = spec.repeats_shapes and not streams_weights(engine)
        self.capture_problem: str | None = None
        """Why shapes are not captured although they could be, or None."""
        self._check_tensors()
        self._profiles = [
            {name: tuple(map(tuple, engine.get_tensor_profile_shape(name, index))) for name in spec.inputs}
            for index in range(engine.num_optimization_profiles)
        ]

    def run(self, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """See Session.run."""
        spec = self._spec
        check_names(spec, feeds)
        inputs = {name: self._on_device(name, array) for name, array in feeds.items()}
        shapes = tuple((name, tensor.shape) for name, tensor in sorted(inputs.items()))
        if shapes in self._captures:
            return self._replay(self._captures[shapes], inputs)
        if self._may_capture and shapes in self._seen:
            return self._capture(shapes, inputs)
        self._seen.add(shapes)
        profile = self._profile(inputs)
        if profile not in self._contexts:
            self._contexts[profile] = self._context(profile)
        return self._enqueue(self._contexts[profile], profile, inputs)

    def drop_captures(self) -> None:
        """Forget the CUDA graphs; they are made again when their shapes come back."""
        if self._captures:
            self._backend.device.synchronize()
        for capture in self._captures.values():
            self._backend.device.discard(capture.executable)
        self._captures.clear()

    def close(self) -> None:
        """Free contexts and captures, after the work that uses them: TensorRT doesn't wait for it."""
        if self._contexts or self._captures:
            self._backend.device.synchronize()
        self.drop_captures()
        self._contexts.clear()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # nobody can hear of a failure here
            self.close()

    def _check_tensors(self) -> None:
        """What the engine takes and gives against the graph. A tensor that TensorRT wants in host memory has no place here."""
        engine, spec = self._engine, self._spec
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        wanted = {**spec.inputs, **spec.outputs}
        if names != wanted.keys():
            raise BackendError(f"the engine of {spec.component} has tensors {sorted(names)}: build it again")
        for name, tensor in wanted.items():
            dtype = engine.get_tensor_dtype(name).name
            if TENSOR_NAMES.get(dtype) != tensor.dtype:
                raise BackendError(f"the engine of {spec.component} has {name} in {dtype}, not {tensor.dtype}: build it again")
            if engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise BackendError(f"the engine of {spec.component} wants {name} in host memory, which this backend has not")

    def _enqueue(self, context: Any, profile: int, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Shapes, scratch and addresses, in TensorRT's order, then the run. Gives new outputs."""
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tensor.shape):
                raise self._failure(f"it refused {name} of shape {tensor.shape}")
        try:
            unknown = context.infer_shapes()
        except RuntimeError:  # sizes that don't go together
            raise self._failure(f"the shapes {_shapes(inputs)} don't go together") from None
        if unknown:
            raise self._failure(f"the shapes of {', '.join(unknown)} stay unknown")
        scratch = self._backend.scratch(int(self._engine.get_device_memory_size_for_profile_v2(profile)))
        context.set_device_memory(scratch.address, scratch.nbytes)
        outputs = {name: self._output(context, name) for name in self._spec.outputs}
        for name, tensor in {**inputs, **outputs}.items():
            if not context.set_tensor_address(name, tensor.address):
                raise self._failure(f"it refused the address of {name}")
        self._execute(context)
        return outputs

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._backend.device.stream):
            raise self._failure("it did not run")

    def _capture(self, shapes: Shapes, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Run a shape that came back, and record it as a CUDA graph.

        A graph holds its context's state, so the context is its own and isn't touched again; TensorRT wants one plain run after
        the last change, and that run's outputs are this run's.
        """
        device = self._backend.device
        if len(self._captures) >= MOST_CAPTURES:
            self.drop_captures()
        profile = self._profile(inputs)
        context = self._context(profile)
        fixed = {name: device.copied(tensor) for name, tensor in inputs.items()}
        outputs = self._enqueue(context, profile, fixed)
        try:
            device.synchronize()
            executable = device.capture(lambda: self._execute(context))
        except BackendError as error:  # the run itself went well: go on without
            self._may_capture, self.capture_problem = False, str(error)
            return outputs
        self._captures[shapes] = _Capture(executable, context, fixed, outputs)
        return {name: device.copied(tensor) for name, tensor in outputs.items()}

    def _replay(self, capture: _Capture, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceArray]:
        device = self._backend.device
        for name, tensor in inputs.items():
            device.copy(tensor, capture.inputs[name])
        device.launch(capture.executable)
        return {name: device.copied(tensor) for name, tensor in capture.outputs.items()}

    def _profile(self, inputs: Mapping[str, DeviceTensor]) -> int:
        """The profile that holds all shapes; where several do, the one with the nearest typical shapes."""
        fitting = []
        for profile, ranges in enumerate(self._profiles):
            distance = 0
            for name, tensor in inputs.items():
                least, typical, most = ranges[name]
                if any(not a <= size <= b for a, size, b in zip(least, tensor.shape, most, strict=True)):
                    break
                distance += sum(abs(size - usual) for size, usual in zip(tensor.shape, typical, strict=True))
            else:
                fitting.append((distance, profile))
        if not fitting:
            raise BackendError(
                f"the engine of {self._spec.component} was not built for {_shapes(inputs)}: run `omnigen2 build` with larger "
                "limits (--max-size, --max-references, --max-images, --max-prompt-tokens)"
            )
        return min(fitting)[1]

    def _context(self, profile: int) -> Any:
        """A context without scratch of its own."""
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise self._failure("it gave no execution context")
        context.error_recorder = self._backend.errors
        if not context.set_optimization_profile_async(profile, self._backend.device.stream):
            raise self._failure(f"it refused profile {profile}")
        return context

    def _output(self, context: Any, name: str) -> DeviceTensor:
        shape = tuple(context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise self._failure(f"the shape of {name} stays unknown: {shape}")
        return DeviceTensor(self._backend.device, shape, self._spec.outputs[name].dtype)

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
        told = self._backend.take_errors()
        return BackendError(f"TensorRT ran {self._spec.component} into an error: {what} ({told})")


class _Capture:
    """A CUDA graph of one shape, with the context whose state and the tensors whose addresses it holds."""

    def __init__(
        self, executable: Any, context: Any, inputs: Mapping[str, DeviceTensor], outputs: Mapping[str, DeviceTensor]
    ) -> None:
        self.executable = executable
        self.context = context
        self.inputs = inputs
        self.outputs = outputs


def streams_weights(engine: Any) -> bool:
    """Whether some weights stay in host memory."""
    streamable = int(engine.streamable_weights_size)
    return streamable > 0 and int(engine.weight_streaming_budget_v2) < streamable


def _shapes(tensors: Mapping[str, DeviceTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
