"""Memory, copies, one stream and captured graphs of the CUDA device, through `cuda-bindings`.

Knows no TensorRT. Every allocation and copy is ordered on the one stream, so freed memory is reused only after the work that
uses it. CUDA's pool keeps it for the next tensor: by default the pool would return all of it to the system whenever the host
waits, once a generated token. `trim` returns it.
"""

from __future__ import annotations

import math
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...dtypes import numpy_dtype
from ...errors import BackendError

KEEP_ALL = 2**64 - 1
SMALLEST_BYTES = 256
"""An empty tensor still gets an address: TensorRT takes no null."""


def import_cudart() -> Any:
    """cuda-bindings's runtime module, or BackendError."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise BackendError("cuda-bindings is not installed: pip install cuda-bindings") from None
    return runtime


class DeviceTensor:
    """An array in device memory. Freed with its last reference, in the stream's order."""

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.dtype = dtype
        self.nbytes = math.prod(shape) * numpy_dtype(dtype).itemsize
        self.address = device.allocate(max(self.nbytes, SMALLEST_BYTES))
        weakref.finalize(self, device.free, self.address).atexit = False


class Device:
    """The current CUDA device and the stream that everything runs on. Raises BackendError where CUDA fails."""

    def __init__(self) -> None:
        self._cudart = import_cudart()
        self.stream = int(self._call("cudaStreamCreateWithFlags", self._cudart.cudaStreamNonBlocking))
        self._pool = self._call("cudaDeviceGetDefaultMemPool", self._call("cudaGetDevice"))
        self._keep_freed_memory()
        self._unfreed: list[int] | None = None

    def name(self) -> str:
        """The GPU's name: "NVIDIA H200", for example."""
        text = self._properties().name
        return (text.decode() if isinstance(text, bytes) else str(text)).rstrip("\0")

    def compute_capability(self) -> str:
        """The GPU's compute capability: "9.0", for example."""
        properties = self._properties()
        return f"{properties.major}.{properties.minor}"

    def driver(self) -> str:
        """The driver's version on Linux; elsewhere the newest CUDA version that it runs."""
        version = driver_version(Path("/proc/driver/nvidia/version"))
        return version or f"CUDA {self._call('cudaDriverGetVersion')}"

    def identity(self) -> dict[str, str]:
        """Name, compute capability and driver: what compiled files are bound to, by the names of their keys."""
        return {"gpu": self.name(), "compute_capability": self.compute_capability(), "driver": self.driver()}

    def memory_bytes(self) -> tuple[int, int]:
        """The GPU's free memory and its total."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, nbytes: int) -> int:
        """An address of `nbytes` bytes."""
        return int(self._call("cudaMallocAsync", nbytes, self.stream))

    def free(self, address: int) -> None:
        """Free memory once the work before this is done."""
        if self._unfreed is not None:
            self._unfreed.append(address)
        else:
            self._cudart.cudaFreeAsync(address, self.stream)  # an error can't be raised at the interpreter's end

    def trim(self) -> None:
        """Wait for the stream, then return the pool's unused memory, so that others can allocate it."""
        self.synchronize()
        self._call("cudaMemPoolTrimTo", self._pool, 0)

    def upload(self, array: np.ndarray, dtype: str) -> DeviceTensor:
        """A copy of `array` as `dtype` on the device."""
        host = np.ascontiguousarray(array.astype(numpy_dtype(dtype), copy=False))
        tensor = DeviceTensor(self, tuple(array.shape), dtype)
        if tensor.nbytes:
            kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
            self._call("cudaMemcpyAsync", tensor.address, host.ctypes.data, tensor.nbytes, kind, self.stream)
        return tensor

    def download(self, tensor: DeviceTensor) -> np.ndarray:
        """A copy of a tensor on the host; waits for the stream."""
        host = np.empty(tensor.shape, numpy_dtype(tensor.dtype))
        if tensor.nbytes:
            kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
            self._call("cudaMemcpyAsync", host.ctypes.data, tensor.address, tensor.nbytes, kind, self.stream)
        self.synchronize()
        return host

    def copy(self, source: DeviceTensor, target: DeviceTensor) -> None:
        """Copy between two tensors of one size on the device."""
        if source.nbytes:
            kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
            self._call("cudaMemcpyAsync", target.address, source.address, source.nbytes, kind, self.stream)

    def copied(self, tensor: DeviceTensor) -> DeviceTensor:
        """A copy of a tensor on the device."""
        copy = DeviceTensor(self, tensor.shape, tensor.dtype)
        self.copy(tensor, copy)
        return copy

    def synchronize(self) -> None:
        """Wait until the stream's work is done."""
        self._call("cudaStreamSynchronize", self.stream)

    def capture(self, work: Callable[[], None]) -> Any:
        """Record the work that `work` puts on the stream, without running it. Returns an executable graph for `launch`.

        Memory that Python frees meanwhile is freed afterwards: a recorded graph can't free memory that it didn't allocate.
        """
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self.stream, mode)
        self._unfreed = []
        try:
            work()
        except BaseException:
            status, unfinished = self._cudart.cudaStreamEndCapture(self.stream)
            if status == self._cudart.cudaError_t.cudaSuccess:
                self._cudart.cudaGraphDestroy(unfinished)
            raise
        else:
            graph = self._call("cudaStreamEndCapture", self.stream)
        finally:
            unfreed, self._unfreed = self._unfreed, None
            for address in unfreed:
                self.free(address)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, executable: Any) -> None:
        """Run a captured graph."""
        self._call("cudaGraphLaunch", executable, self.stream)

    def discard(self, executable: Any) -> None:
        """Free a captured graph."""
        self._cudart.cudaGraphExecDestroy(executable)

    def _keep_freed_memory(self) -> None:
        from cuda.bindings.driver import cuuint64_t  # the runtime wants the driver's integer

        attribute = self._cudart.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        self._call("cudaMemPoolSetAttribute", self._pool, attribute, cuuint64_t(KEEP_ALL))

    def _properties(self) -> Any:
        return self._call("cudaGetDeviceProperties", self._call("cudaGetDevice"))

    def _call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the runtime, which returns its status first, then its results."""
        status, *results = getattr(self._cudart, function)(*arguments)
        if status != self._cudart.cudaError_t.cudaSuccess:
            raise BackendError(f"CUDA: {function} failed: {getattr(status, 'name', status)}")
        return results[0] if len(results) == 1 else tuple(results)


def driver_version(path: Path) -> str | None:
    """The version in NVIDIA's file under /proc, or None."""
    try:
        match = re.search(r"Kernel Module.*?(\d+\.\d+(\.\d+)?)", path.read_text(encoding="utf-8"))
    except OSError:
        return None
    return match.group(1) if match else None
