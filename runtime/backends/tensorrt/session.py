"""A loaded engine: profiles, contexts, shapes, addresses, and recorded runs of the shapes that come back.

Everything goes onto one stream. Outputs are new tensors, and a tensor on the device is an input by its address: none is copied
between two engines or two runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...dtypes import DTYPES
from ...errors import BackendError
from ...manifest import GraphSpec
from ..backend import DeviceArray, check_names
from .cuda import DeviceTensor
from .cuda_graphs import Capture, Scratch, Shapes
from .library import Contexts, take_errors


class TensorRTSession:
    """An engine with a context per profile and one per recorded shape. Raises BackendError where the engine isn't the graph's.

    contexts: makes the engine's contexts.
    trt: the library's module.
    log: its logger.
    """

    def __init__(self, engine: Any, spec: GraphSpec, contexts: Contexts, trt: Any, scratch: Scratch, log: Any) -> None:
        self._engine = engine
        self._spec = spec
        self._new_contexts = contexts
        self._trt = trt
        self._scratch = scratch
        self._device = scratch.device
        self._log = log
        self._contexts: dict[int, Any] = {}
        self._visited: set[Shapes] = set()
        self._captures = scratch.new_captures()
        # TensorRT: an engine that streams its weights can't be captured.
        self._may_capture = spec.repeats_shapes and not streams_weights(engine)
        self.capture_problem: str | None = None
        """Why no more shapes are captured, or None."""
        self._check_tensors()
        self._profiles = [
            {name: tuple(map(tuple, engine.get_tensor_profile_shape(name, index))) for name in spec.inputs}
            for index in range(engine.num_optimization_profiles)
        ]

    def run(self, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """See Session.run."""
        check_names(self._spec, feeds)
        inputs = {name: self._on_device(name, array) for name, array in feeds.items()}
        shapes = tuple((name, tensor.shape) for name, tensor in sorted(inputs.items()))
        if shapes in self._captures:
            return self._captures.replay(shapes, inputs)
        if self._may_capture and shapes in self._visited:
            return self._capture(shapes, inputs)
        self._visited.add(shapes)
        profile = self._profile(inputs)
        if profile not in self._contexts:
            self._contexts[profile] = self._context(profile)
        return self._enqueue(self._contexts[profile], profile, inputs)

    def close(self) -> None:
        """Free contexts and recorded runs, after the work that uses them: TensorRT doesn't wait for it."""
        if self._contexts:
            self._device.synchronize()
        self._captures.drop()
        self._contexts.clear()
        self._new_contexts.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # an error can't be raised here
            self.close()

    def _check_tensors(self) -> None:
        """Compares the engine's tensors with the graph's. All of them must lie on the device."""
        engine, spec = self._engine, self._spec
        names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
        expected = {**spec.inputs, **spec.outputs}
        if names != expected.keys():
            raise BackendError(f"the engine of {spec.component} has tensors {sorted(names)}: build it again")
        for name, tensor in expected.items():
            dtype = engine.get_tensor_dtype(name).name
            if dtype != DTYPES[tensor.dtype].tensorrt:
                raise BackendError(f"the engine of {spec.component} has {name} in {dtype}, not {tensor.dtype}: build it again")
            if engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
                raise BackendError(f"the engine of {spec.component} wants {name} in host memory, which this backend has not")

    def _enqueue(self, context: Any, profile: int, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Sets shapes, scratch and addresses, in TensorRT's order, then runs. Returns new outputs."""
        for name, tensor in inputs.items():
            if not context.set_input_shape(name, tensor.shape):
                raise self._failure(f"it refused {name} of shape {tensor.shape}")
        try:
            unknown = context.infer_shapes()
        except RuntimeError:  # sizes that don't go together
            raise self._failure(f"the shapes {_shapes(inputs)} don't go together") from None
        if unknown:
            raise self._failure(f"the shapes of {', '.join(unknown)} stay unknown")
        scratch = self._scratch.reserve(int(self._engine.get_device_memory_size_for_profile_v2(profile)))
        context.set_device_memory(scratch.address, scratch.nbytes)
        outputs = {name: self._output(context, name) for name in self._spec.outputs}
        for name, tensor in {**inputs, **outputs}.items():
            if not context.set_tensor_address(name, tensor.address):
                raise self._failure(f"it refused the address of {name}")
        self._execute(context)
        return outputs

    def _execute(self, context: Any) -> None:
        if not context.execute_async_v3(self._device.stream):
            raise self._failure("it did not run")

    def _capture(self, shapes: Shapes, inputs: Mapping[str, DeviceTensor]) -> dict[str, DeviceTensor]:
        """Runs a shape that came back, and records the run.

        A record holds its context's state, so the context is its own and isn't touched again. TensorRT needs a plain run after
        the last change; this returns that run's outputs.
        """
        self._captures.make_room()
        profile = self._profile(inputs)
        context = self._context(profile, recorded=True)
        fixed = {name: self._device.copied(tensor) for name, tensor in inputs.items()}
        outputs = self._enqueue(context, profile, fixed)
        try:
            launch = self._new_contexts.record(self._device, lambda: self._execute(context))
        except BackendError as error:  # the plain run succeeded: go on without captures
            self._may_capture, self.capture_problem = False, str(error)
            return outputs
        self._captures.add(shapes, Capture(launch, context, fixed, outputs))
        return {name: self._device.copied(tensor) for name, tensor in outputs.items()}

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

    def _context(self, profile: int, *, recorded: bool = False) -> Any:
        """A context without scratch of its own."""
        context = self._new_contexts.create(recorded=recorded)
        if context is None:
            raise self._failure("it gave no execution context")
        if not context.set_optimization_profile_async(profile, self._device.stream):
            raise self._failure(f"it refused profile {profile}")
        return context

    def _output(self, context: Any, name: str) -> DeviceTensor:
        shape = tuple(context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise self._failure(f"the shape of {name} stays unknown: {shape}")
        return DeviceTensor(self._device, shape, self._spec.outputs[name].dtype)

    def _on_device(self, name: str, array: DeviceArray | np.ndarray) -> DeviceTensor:
        spec = self._spec.inputs[name]
        tensor = self._device.upload(array, spec.dtype) if isinstance(array, np.ndarray) else array
        if len(tensor.shape) != len(spec.shape) or tensor.dtype != spec.dtype:
            raise BackendError(
                f"{self._spec.component} takes {name} of shape {spec.shape} in {spec.dtype}; "
                f"it was given {tensor.shape} in {tensor.dtype}"
            )
        return tensor

    def _failure(self, what: str) -> BackendError:
        return BackendError(f"TensorRT ran {self._spec.component} into an error: {what} ({take_errors(self._log)})")


def streams_weights(engine: Any) -> bool:
    """Whether some weights stay in host memory."""
    streamable = int(engine.streamable_weights_size)
    return streamable > 0 and int(engine.weight_streaming_budget_v2) < streamable


def _shapes(tensors: Mapping[str, DeviceTensor]) -> dict[str, tuple[int, ...]]:
    return {name: tensor.shape for name, tensor in tensors.items()}
