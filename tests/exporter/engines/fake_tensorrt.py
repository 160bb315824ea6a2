"""Doubles of either library's runtime, specified by the real classes: an unknown name fails, and so does a wrong order of calls.

`trt` is the library's module, or TensorRT's bindings over stub libraries (`tests/tensorrt_stubs.py`). An engine reads and writes
the addresses that are set on its context. The doubles assert the requirements of NvInferRuntime.h (of 11.1): the profile before
the shapes, sizes inside the profile, enough scratch, an address for every tensor, a plain run before a capture, and no change of
a captured context.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from unittest.mock import create_autospec

import numpy as np

from omnigen2_rt.runtime.dtypes import DTYPES, numpy_dtype
from tests.exporter.engines.fake_cuda import FakeCuda
from tests.exporter.engines.small_bundle import HIDDEN

Shape = tuple[int, ...]
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An engine's inputs and outputs.

    inputs: for each input, the smallest, typical and largest shape in each profile.
    outputs: for each output, the function that computes it.
    scratch: bytes of scratch, by profile.
    """

    dtype: str
    inputs: Mapping[str, list[tuple[Shape, Shape, Shape]]]
    outputs: Mapping[str, Callable[[Arrays], np.ndarray]]
    scratch: tuple[int, ...] = (1000, 5000)


TRANSFORMER = Plan(
    dtype="float16",
    inputs={
        "references": [
            ((1, 0, HIDDEN), (1, 0, HIDDEN), (1, 0, HIDDEN)),
            ((1, 1, HIDDEN), (1, 4, HIDDEN), (1, 9, HIDDEN)),
        ],
        "image_tokens": [((1, 1, HIDDEN), (1, 4, HIDDEN), (2, 9, HIDDEN))] * 2,
    },
    outputs={"hidden_states": lambda inputs: inputs["image_tokens"] * 2},
)
LANGUAGE_MODEL = Plan(
    dtype="float16",
    inputs={
        "past": [((1, 1, 0, 2), (1, 1, 0, 2), (1, 1, 0, 2)), ((1, 1, 1, 2), (1, 1, 4, 2), (1, 1, 9, 2))],
        "new": [((1, 1, 1, 2), (1, 1, 4, 2), (1, 1, 9, 2)), ((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 2))],
    },
    outputs={"present": lambda inputs: np.concatenate([inputs["past"], inputs["new"]], 2)},
)
"""The KV cache of one layer, with profiles for a prompt and for a generated token."""


class Engine:
    """An engine. `double` is the object for the backend; the other attributes are for tests.

    log: the logger of the runtime that loaded it.
    kernels: the compiled kernels that the library holds; TensorRT for RTX only.
    """

    log: Any = None

    def __init__(self, trt: Any, cuda: FakeCuda, plan: Plan = TRANSFORMER, streamable: int = 0) -> None:
        self.trt = trt
        self.cuda = cuda
        self.plan = plan
        self.contexts: list[Context] = []
        self.executed: list[int] = []
        self.fails = False
        self.uncapturable = False
        names = [*plan.inputs, *plan.outputs]
        double = create_autospec(trt.ICudaEngine, instance=True)
        double.num_io_tensors = len(names)
        double.num_optimization_profiles = len(plan.scratch)
        double.streamable_weights_size = streamable
        double.weight_streaming_budget_v2 = streamable
        double.get_tensor_name.side_effect = names.__getitem__
        double.get_tensor_dtype.return_value = getattr(trt.DataType, DTYPES[plan.dtype].tensorrt)
        double.get_tensor_location.return_value = trt.TensorLocation.DEVICE
        double.get_tensor_profile_shape.side_effect = lambda name, profile: plan.inputs[name][profile]
        double.get_device_memory_size_for_profile_v2.side_effect = plan.scratch.__getitem__
        double.create_execution_context.side_effect = self.context
        self.double = double
        self.kernels = b"no kernels"
        self.runtime_configs: list[RuntimeConfig] = []
        if hasattr(double, "create_runtime_config"):
            double.create_runtime_config.side_effect = self.runtime_config

    def runtime_config(self) -> Any:
        self.runtime_configs.append(RuntimeConfig(self))
        return self.runtime_configs[-1].double

    def context(self, setting: Any) -> Any:
        """setting: the allocation strategy, or the runtime configuration that states it."""
        trt, records = self.trt, False
        if not isinstance(setting, trt.ExecutionContextAllocationStrategy):
            (config,) = [config for config in self.runtime_configs if config.double is setting]
            assert config.caches, "a context takes the cache of kernels that is set before it is created"
            setting, records = config.allocation, setting.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        assert setting == trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.contexts.append(Context(self, records))
        return self.contexts[-1].double


class RuntimeConfig:
    """A runtime configuration of TensorRT for RTX. Its cache takes only what starts with "kernels"."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.allocation: Any = None
        self.caches: list[Any] = []
        double = create_autospec(engine.trt.IRuntimeConfig, instance=True)
        double.set_execution_context_allocation_strategy.side_effect = self.set_allocation
        double.create_runtime_cache.side_effect = self.cache
        double.set_runtime_cache.side_effect = self.set_cache
        self.double = double

    def set_allocation(self, strategy: Any) -> None:
        self.allocation = strategy

    def cache(self) -> Any:
        cache = create_autospec(self.engine.trt.IRuntimeCache, instance=True)
        cache.deserialize.side_effect = self.deserialize
        cache.serialize.side_effect = lambda: memoryview(self.engine.kernels)
        return cache

    def deserialize(self, kernels: bytes) -> bool:
        if not kernels.startswith(b"kernels"):
            return False
        self.engine.kernels = kernels
        return True

    def set_cache(self, cache: Any) -> bool:
        self.caches.append(cache)
        return True


class Context:
    """An execution context: the values that were set on it, and the number of changes.

    records: the library records its runs, so that a change after the first one would lose the record.
    """

    def __init__(self, engine: Engine, records: bool) -> None:
        self.engine = engine
        self.records = records
        self.runs = 0
        self.profile: int | None = None
        self.shapes: dict[str, Shape] = {}
        self.addresses: dict[str, int] = {}
        self.scratch = (0, 0)
        self.changes = 0
        self.ran_at = -1
        double = create_autospec(engine.trt.IExecutionContext, instance=True)
        double.set_optimization_profile_async.side_effect = self.set_profile
        double.set_input_shape.side_effect = self.set_shape
        double.infer_shapes.side_effect = self.infer_shapes
        double.get_tensor_shape.side_effect = self.output_shape
        double.set_tensor_address.side_effect = self.set_address
        double.set_device_memory.side_effect = self.set_scratch
        double.execute_async_v3.side_effect = self.execute
        self.double = double

    def set_profile(self, profile: int, stream: int) -> bool:
        assert stream == FakeCuda.STREAM
        self.profile, self.changes = profile, self.changes + 1
        return True

    def set_shape(self, name: str, shape: Shape) -> bool:
        assert self.profile is not None, "TensorRT wants the profile before the shapes"
        smallest, _, largest = self.engine.plan.inputs[name][self.profile]
        assert all(a <= size <= b for a, size, b in zip(smallest, shape, largest, strict=True))
        self.shapes[name], self.changes = shape, self.changes + 1
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.plan.inputs if name not in self.shapes]

    def output_shape(self, name: str) -> Shape:
        inputs = {name: np.zeros(shape, np.float32) for name, shape in self.shapes.items()}
        return self.engine.plan.outputs[name](inputs).shape

    def set_scratch(self, address: int, size: int) -> None:
        self.scratch, self.changes = (address, size), self.changes + 1

    def set_address(self, name: str, address: int) -> bool:
        self.addresses[name], self.changes = address, self.changes + 1
        return True

    def execute(self, stream: int) -> bool:
        engine = self.engine
        assert stream == FakeCuda.STREAM
        capturing = engine.cuda.capturing
        if engine.fails or (capturing is not None and engine.uncapturable):
            engine.log.log(engine.trt.ILogger.Severity.ERROR, "the test\nsays no")
            return False
        assert self.profile is not None and self.scratch[0] in engine.cuda.memory
        assert self.scratch[1] >= engine.plan.scratch[self.profile]
        engine.executed.append(stream)
        if capturing is None:
            assert not (self.records and self.runs and self.ran_at != self.changes), "a recorded context was changed"
            self.runs += 1
            self.ran_at = self.changes
            self.compute()
        else:
            assert self.ran_at == self.changes, "a capture needs a plain run after the last change"
            capturing.append(self.replay)
        return True

    def replay(self) -> None:
        assert self.ran_at == self.changes, "the context of a capture was changed"
        self.compute()

    def compute(self) -> None:
        engine = self.engine
        assert self.addresses.keys() == {*engine.plan.inputs, *engine.plan.outputs}
        assert all(address in engine.cuda.memory for address in self.addresses.values())
        inputs = {name: self.array(name, shape) for name, shape in self.shapes.items()}
        for name, compute in engine.plan.outputs.items():
            result = compute(inputs)
            self.array(name, result.shape)[...] = result

    def array(self, name: str, shape: Shape) -> np.ndarray:
        dtype = numpy_dtype(self.engine.plan.dtype)
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return np.zeros(shape, dtype)
        memory = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


def fake_runtime(engines: Mapping[bytes, Engine]) -> Any:
    """A `trt.Runtime` class. Its one instance, `instance`, returns the engine of a plan's bytes and finds every plan valid."""
    trt = next(iter(engines.values())).trt
    instance = create_autospec(trt.Runtime, instance=True)
    instance.deserialize_cuda_engine.side_effect = lambda plan: engines[bytes(plan)].double
    if hasattr(instance, "get_engine_validity"):
        instance.engine_header_size = 8
        instance.get_engine_validity.return_value = (trt.EngineValidity.VALID, 0)

    def create(logger: Any) -> Any:
        assert isinstance(logger, trt.ILogger)
        for engine in engines.values():
            engine.log = logger
        return instance

    create.instance = instance  # type: ignore[attr-defined]
    return create
