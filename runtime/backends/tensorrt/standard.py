"""TensorRT: its engines hold kernels that were chosen on one GPU and run there; its runs are recorded as CUDA graphs of ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cuda import Device
from .engines import Machine
from .kernel_cache import KernelCache
from .library import Contexts, Launch, Library


class TensorRT(Library):
    """See Library. 10.15 is the first that takes RMSNormalization, RotaryEmbedding and a node's plugin before its function."""

    name = "tensorrt"
    title = "TensorRT"
    module = "tensorrt"
    extra = "tensorrt"
    oldest = (10, 15)

    def machine(self, device: Device | None = None) -> Machine:
        """See Library.machine: version, GPU and driver."""
        device = device or Device()
        return Machine(library=self.name, tensorrt=str(self.load().__version__), **device.identity())

    def contexts(self, engine: Any, kernels: KernelCache, specialization: str) -> Contexts:
        """See Library.contexts. An engine holds its kernels, so there are none to keep or to specialize."""
        return _Contexts(engine, self.load())


class _Contexts(Contexts):
    def __init__(self, engine: Any, trt: Any) -> None:
        self._engine = engine
        self._trt = trt

    def create(self, *, recorded: bool) -> Any:
        return self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)

    def record(self, device: Device, run: Callable[[], None]) -> Launch:
        device.synchronize()
        return _Graph(device, device.capture(run))


class _Graph:
    """A captured CUDA graph."""

    def __init__(self, device: Device, executable: Any) -> None:
        self._device = device
        self._executable = executable

    def __call__(self) -> None:
        self._device.launch(self._executable)

    def discard(self) -> None:
        self._device.discard(self._executable)
