"""TensorRT for RTX: its engines are built without a GPU and compiled on the user's when they are loaded.

One engine serves many kinds of GPUs. The compiled kernels are kept from process to process (kernel_cache.py), and the library
records runs by itself. Tried on a machine without a GPU and on one with compute capability 9.0, which it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import BackendError
from .cuda import Device
from .engines import Machine
from .kernel_cache import KernelCache
from .library import Contexts, Launch, Library, cuda_problem, make_log, take_errors

REASONS = {
    "VERSION_MISMATCH": "it was built with another version of TensorRT for RTX: build it again",
    "UNSUPPORTED_CC": "it was built for other GPUs: build it with another --target",
    "OLD_CUDA_DRIVER": "the NVIDIA driver is too old for it: install a newer one",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it: install a newer one",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "it is damaged: build it again",
    "CUDA_ERROR": "CUDA doesn't work here: check the NVIDIA driver with nvidia-smi",
}
"""The faults that the library finds in an engine, by the names of its EngineInvalidityDiagnostics."""
OLDEST_GPUS = ("7.5", "8.0", "8.6", "8.9")
NEWER_GPUS = (12, 0)


class TensorRTForRTX(Library):
    """See Library."""

    name = "tensorrt-rtx"
    title = "TensorRT for RTX"
    module = "tensorrt_rtx"
    extra = "rtx"
    oldest = (1, 7)

    def gpu_problem(self) -> str | None:
        """See Library.gpu_problem: also GPUs that the library doesn't support, which are those of data centres."""
        if (problem := cuda_problem()) is not None:
            return problem
        try:
            capability = Device().compute_capability()
        except BackendError as error:
            return str(error)
        if capability in OLDEST_GPUS or tuple(map(int, capability.split("."))) >= NEWER_GPUS:
            return None
        return (
            f"this GPU has compute capability {capability}, and TensorRT for RTX runs on {', '.join(OLDEST_GPUS)}, 12.0 and newer"
            ": take backend tensorrt or ort-cuda"
        )

    def machine(self, device: Device | None = None) -> Machine:
        """See Library.machine: the version alone. Which GPUs an engine runs on is an option of its build."""
        version = str(self.load().__version__)
        return Machine(library=self.name, tensorrt=version, gpu=None, compute_capability=None, driver=None)

    def refusal(self, runtime: Any, plan: memoryview) -> str | None:
        """See Library.refusal. The library looks at the plan's header only."""
        trt = self.load()
        log = make_log(trt)
        log.errors.clear()
        validity, found = runtime.get_engine_validity(bytes(plan[: runtime.engine_header_size]))
        if validity != trt.EngineValidity.INVALID:
            return None
        diagnostics = trt.EngineInvalidityDiagnostics
        reasons = [text for name, text in REASONS.items() if int(found) & int(getattr(diagnostics, name))]
        return "; ".join(reasons) or f"the library calls it invalid: {take_errors(log)}"

    def contexts(self, engine: Any, kernels: KernelCache, specialization: str) -> Contexts:
        """See Library.contexts."""
        return _Contexts(engine, self.load(), kernels, specialization)


class _Contexts(Contexts):
    def __init__(self, engine: Any, trt: Any, kernels: KernelCache, specialization: str) -> None:
        self._engine = engine
        self._graphs = trt.CudaGraphStrategy
        self._kept = kernels
        self._runtime_config = engine.create_runtime_config()
        self._runtime_config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        strategy = getattr(trt.DynamicShapesKernelSpecializationStrategy, specialization.upper())
        self._runtime_config.dynamic_shapes_kernel_specialization_strategy = strategy
        self._runtime_cache = self._runtime_config.create_runtime_cache()
        self._before = kernels.read()
        if self._before is not None and not self._runtime_cache.deserialize(self._before):
            self._before = None  # the library checks version, GPU and driver itself; it compiles again
        if not self._runtime_config.set_runtime_cache(self._runtime_cache):
            raise BackendError("TensorRT for RTX took no cache of compiled kernels")

    def create(self, *, recorded: bool) -> Any:
        graphs = self._graphs.WHOLE_GRAPH_CAPTURE if recorded else self._graphs.DISABLED
        self._runtime_config.cuda_graph_strategy = graphs
        return self._engine.create_execution_context(self._runtime_config)

    def record(self, device: Device, run: Callable[[], None]) -> Launch:
        return _Again(run)

    def close(self) -> None:
        """Keep the compiled kernels: those of new shapes may have come at any run."""
        kernels = bytes(self._runtime_cache.serialize())
        if kernels != self._before:
            self._kept.write(kernels)
            self._before = kernels


class _Again:
    """A run of a context that the library records by itself: the same addresses and shapes again."""

    def __init__(self, run: Callable[[], None]) -> None:
        self._run = run

    def __call__(self) -> None:
        self._run()

    def discard(self) -> None:
        pass
