"""Doubles of TensorRT's builder, runtime and engine, specified by the real classes: an unknown name or method fails.

Imported only where `import tensorrt` works, with stub libraries (`tests/tensorrt_stubs.py`). The engine multiplies: its output
is twice `image_tokens`, read from and written to the addresses that it was given.
"""

from __future__ import annotations

import ctypes
from typing import Any
from unittest.mock import create_autospec

import numpy as np
import tensorrt as trt

from tests.engines.fake_cuda import FakeCuda
from tests.engines.made_bundle import HIDDEN

INPUTS = ("references", "image_tokens")
PROFILES = {
    "references": [((1, 0, HIDDEN), (1, 0, HIDDEN), (1, 0, HIDDEN)), ((1, 1, HIDDEN), (1, 4, HIDDEN), (1, 9, HIDDEN))],
    "image_tokens": [((1, 1, HIDDEN), (1, 4, HIDDEN), (2, 9, HIDDEN))] * 2,
}
SCRATCH = [1000, 5000]


class Engine:
    """`double` is what the backend sees; the rest is what a test reads."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.contexts: list[Any] = []
        self.executed: list[int] = []
        self.scratch: list[tuple[int, int]] = []
        self.fails = False
        self.recorder: Any = None
        double = create_autospec(trt.ICudaEngine, instance=True)
        double.num_io_tensors = 3
        double.num_optimization_profiles = 2
        double.streamable_weights_size = 100
        double.get_weight_streaming_automatic_budget.return_value = 40
        double.get_tensor_name.side_effect = [*INPUTS, "hidden_states"] * 9
        double.get_tensor_dtype.return_value = trt.DataType.HALF
        double.get_tensor_profile_shape.side_effect = lambda name, profile: PROFILES[name][profile]
        double.get_device_memory_size_for_profile_v2.side_effect = SCRATCH.__getitem__
        double.create_execution_context.side_effect = self.context
        self.double = double

    def context(self, strategy: Any) -> Any:
        assert strategy == trt.ExecutionContextAllocationStrategy.USER_MANAGED
        double = create_autospec(trt.IExecutionContext, instance=True)
        shapes: dict[str, tuple[int, ...]] = {}
        addresses: dict[str, int] = {}

        def execute(stream: int) -> bool:
            if self.fails:
                self.recorder.report_error(trt.ErrorCodeTRT.FAILED_EXECUTION, "the test\nsays no")
                return False
            assert stream == FakeCuda.STREAM
            assert self.scratch[-1][0] in self.cuda.memory
            now = dict(addresses), dict(shapes)
            if self.cuda.capturing is not None:
                self.cuda.capturing.append(lambda: self.compute(*now))
            else:
                self.compute(*now)
            self.executed.append(stream)
            return True

        double.set_optimization_profile_async.return_value = True
        double.set_input_shape.side_effect = lambda name, shape: shapes.update({name: shape}) is None
        double.infer_shapes.return_value = []
        double.get_tensor_shape.side_effect = lambda name: shapes["image_tokens"]
        double.set_tensor_address.side_effect = lambda name, address: addresses.update({name: address}) is None
        double.set_device_memory.side_effect = lambda address, size: self.scratch.append((address, size))
        double.execute_async_v3.side_effect = execute
        self.contexts.append(double)
        return double

    def compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        assert addresses.keys() == {*INPUTS, "hidden_states"}
        assert all(address in self.cuda.memory for address in addresses.values())
        count = int(np.prod(shapes["image_tokens"]))
        given = (ctypes.c_uint16 * count).from_address(addresses["image_tokens"])
        wanted = (ctypes.c_uint16 * count).from_address(addresses["hidden_states"])
        np.frombuffer(wanted, np.float16)[:] = np.frombuffer(given, np.float16) * 2


def fake_runtime(engine: Engine) -> Any:
    """A `trt.Runtime` class whose objects give `engine` for any plan but an empty one."""
    made = create_autospec(trt.Runtime, instance=True)
    made.deserialize_cuda_engine.side_effect = lambda plan: engine.double

    def create(logger: Any) -> Any:
        assert isinstance(logger, trt.ILogger)
        return made

    create.made = made  # type: ignore[attr-defined]
    return create
