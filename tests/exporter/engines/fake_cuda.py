"""A double of cuda-bindings's runtime module: device memory is host memory, and every call is recorded.

It has only functions of the real module (`name_checks.py` compares the names). While a stream is captured it refuses what CUDA
refuses: allocating, freeing and synchronizing.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any
from unittest import mock

from omnigen2_rt.runtime.backends.tensorrt import cuda
from omnigen2_rt.runtime.backends.tensorrt import library as tensorrt_library


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class cudaMemPoolAttr(IntEnum):
    cudaMemPoolAttrReleaseThreshold = 4


class Properties:
    name = b"NVIDIA Test 1"

    def __init__(self, capability: tuple[int, int]) -> None:
        self.major, self.minor = capability


class FakeCuda:
    """The module's functions, which return a status before their results. capability: the GPU's compute capability."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaMemPoolAttr = cudaMemPoolAttr
    cudaStreamNonBlocking = 1
    STREAM, POOL = 77, 78

    def __init__(self, capability: tuple[int, int] = (9, 0)) -> None:
        self.capability = capability
        self.calls: list[str] = []
        self.streams: set[int] = set()
        self.memory: dict[int, Any] = {}
        self.copies: list[tuple[str, int, int, int]] = []
        self.kept_bytes = 0
        self.capturing: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.numbers = itertools.count(1000)
        self.fail_next: str | None = None

    def _done(self, name: str, *results: Any, stream: int | None = None) -> tuple[Any, ...]:
        self.calls.append(name)
        if stream is not None:
            self.streams.add(stream)
        if self.fail_next == name:
            self.fail_next = None
            return (cudaError_t.cudaErrorMemoryAllocation, *(None for _ in results))
        return (cudaError_t.cudaSuccess, *results)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return self._done("cudaGetDeviceCount", 1)

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return self._done("cudaGetDevice", 0)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self._done("cudaGetDeviceProperties", Properties(self.capability))

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return self._done("cudaDriverGetVersion", 13000)

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return self._done("cudaMemGetInfo", 30 * 10**9, 40 * 10**9)

    def cudaDeviceGetDefaultMemPool(self, device: int) -> tuple[Any, ...]:
        return self._done("cudaDeviceGetDefaultMemPool", self.POOL)

    def cudaMemPoolSetAttribute(self, pool: int, attribute: Any, value: Any) -> tuple[Any, ...]:
        assert (pool, attribute) == (self.POOL, cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold)
        self.kept_bytes = int(value)
        return self._done("cudaMemPoolSetAttribute")

    def cudaMemPoolTrimTo(self, pool: int, nbytes: int) -> tuple[Any, ...]:
        assert (pool, nbytes) == (self.POOL, 0)
        assert self.calls[-1] == "cudaStreamSynchronize", "memory in use isn't returned"
        return self._done("cudaMemPoolTrimTo")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        return self._done("cudaStreamCreateWithFlags", self.STREAM)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        assert self.capturing is None
        return self._done("cudaStreamSynchronize", stream=stream)

    def cudaMallocAsync(self, nbytes: int, stream: int) -> tuple[Any, ...]:
        assert self.capturing is None
        buffer = ctypes.create_string_buffer(nbytes)
        self.memory[ctypes.addressof(buffer)] = buffer
        return self._done("cudaMallocAsync", ctypes.addressof(buffer), stream=stream)

    def cudaFreeAsync(self, address: int, stream: int) -> tuple[Any, ...]:
        assert self.capturing is None
        del self.memory[address]
        return self._done("cudaFreeAsync", stream=stream)

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: Any, stream: int) -> tuple[Any, ...]:
        device = {1: (target,), 2: (source,), 3: (target, source)}[int(kind)]
        assert all(address in self.memory for address in device), "a device address that is not allocated"
        ctypes.memmove(target, source, nbytes)
        self.copies.append((kind.name, target, source, nbytes))
        return self._done(f"cudaMemcpyAsync {kind.name}", stream=stream)

    def cudaStreamBeginCapture(self, stream: int, mode: Any) -> tuple[Any, ...]:
        self.capturing = []
        return self._done("cudaStreamBeginCapture", stream=stream)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        number = next(self.numbers)
        self.graphs[number], self.capturing = self.capturing or [], None
        return self._done("cudaStreamEndCapture", number, stream=stream)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        number = next(self.numbers)
        self.graphs[number] = self.graphs[graph]
        return self._done("cudaGraphInstantiate", number)

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.graphs[graph]
        return self._done("cudaGraphDestroy")

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        del self.graphs[executable]
        return self._done("cudaGraphExecDestroy")

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        for work in self.graphs[executable]:
            work()
        return self._done("cudaGraphLaunch", stream=stream)


@contextmanager
def fake_cuda(double: FakeCuda) -> Iterator[None]:
    """Put the double in the place of cuda-bindings."""
    with mock.patch.object(cuda, "import_cudart", lambda: double):
        with mock.patch.object(tensorrt_library, "import_cudart", lambda: double):
            yield
