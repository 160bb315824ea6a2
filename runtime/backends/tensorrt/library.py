"""NVIDIA's libraries that build and run engines: what TensorRT and TensorRT for RTX share. Also CUDA, and errors as one line.

What differs while an engine runs stands in standard.py and rtx.py. Knows no bundle. Builder and backend share this.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from functools import cache
from importlib import import_module
from typing import Any, ClassVar, Protocol

from ...errors import BackendError
from .cuda import Device, import_cudart
from .engines import Machine
from .kernel_cache import KernelCache

MOST_ERRORS = 100
WHERE = re.compile(r"\[[\w.]+\.(?:cpp|h)\b[^\]]*\]:? ?| In \w+ at /\S+?(?=\)|$)| ?\(See https?:[^)]*\)")
"""Places in NVIDIA's sources, and addresses of its manual."""
NO_DRIVER = "cudaError 35"
"""The error that TensorRT for RTX reports at any build on a machine without a driver, where builds succeed too."""


class Launch(Protocol):
    """A recorded run. Calling it runs it again; `discard` frees it."""

    def __call__(self) -> None: ...

    def discard(self) -> None: ...


class Contexts(ABC):
    """Makes the execution contexts of one engine, and records runs of them."""

    @abstractmethod
    def create(self, *, recorded: bool) -> Any:
        """A context without scratch memory of its own, or None. recorded: its runs are recorded."""

    @abstractmethod
    def record(self, device: Device, run: Callable[[], None]) -> Launch:
        """Record `run`, which puts a context's run on the device's stream and has run before. Raises BackendError."""

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """Keep what a later process can use."""


class Library(ABC):
    """One of the libraries.

    name: the backend's name, which `build --library` takes too.
    title: NVIDIA's name.
    module: the Python module.
    extra: the install extra that brings it.
    oldest: the first version that takes every operator of our graphs.
    precisions: those of its engines, best first.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]
    extra: ClassVar[str]
    oldest: ClassVar[tuple[int, int]]
    precisions: ClassVar[tuple[str, ...]] = ("bf16", "fp16", "fp32")

    def load(self) -> Any:
        """The library's module. Raises BackendError that says which extra brings it."""
        try:
            return import_module(self.module)
        except (ImportError, OSError) as error:  # OSError: its loader looks for the libraries by hand
            advice = f'pip install "omnigen2-rt[{self.extra}]"'
            raise BackendError(f"{self.title} can't be loaded ({error}): {advice}") from None

    def problem(self) -> str | None:
        """Why engines can't run here, or None. Names everything that is missing."""
        return "; ".join(filter(None, (self.version_problem(), self.gpu_problem()))) or None

    def version_problem(self) -> str | None:
        """Why the library itself can't be used, or None."""
        try:
            version = str(self.load().__version__)
        except BackendError as error:
            return str(error)
        if tuple(int(part) for part in version.split(".")[:2]) < self.oldest:
            oldest = ".".join(map(str, self.oldest))
            return f'{self.title} {version} is older than {oldest}: pip install --upgrade "omnigen2-rt[{self.extra}]"'
        return None

    def gpu_problem(self) -> str | None:
        """Why no GPU can be used, or None."""
        return cuda_problem()

    @abstractmethod
    def machine(self, device: Device | None = None) -> Machine:
        """Everything of this machine that an engine built here is bound to. Raises BackendError where CUDA fails."""

    def refusal(self, runtime: Any, plan: memoryview) -> str | None:
        """Why this GPU and driver can't run a plan, as far as the library says without loading it, or None."""
        return None

    @abstractmethod
    def contexts(self, engine: Any, kernels: KernelCache, specialization: str) -> Contexts:
        """The contexts of a loaded engine.

        kernels: where kernels are kept that the library compiles for this GPU.
        specialization: "lazy", "eager" or "none", see `load`.
        """


def cuda_problem() -> str | None:
    """Why CUDA can't be used, or None."""
    try:
        cudart = import_cudart()
    except BackendError as error:
        return str(error)
    try:
        status, count = cudart.cudaGetDeviceCount()
    except RuntimeError as error:  # cuda-bindings raises where the driver's library is missing
        return f"CUDA can't be used ({str(error).strip().splitlines()[0]}): install the NVIDIA driver"
    if status != cudart.cudaError_t.cudaSuccess or not count:
        reason = getattr(status, "name", status)
        return f"CUDA finds no GPU ({reason}): check the NVIDIA driver with nvidia-smi"
    return None


@cache
def make_log(trt: Any) -> Any:
    """The `trt.ILogger` of everything in this process: it prints nothing, and keeps errors and what builds say about memory.

    One for all, because a library may keep using the first that it was given. An error recorder, which is meant for errors, makes
    TensorRT for RTX 1.7 crash when a network is freed.
    """
    severe = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: deque[str] = deque(maxlen=MOST_ERRORS)
            self.memory: deque[str] = deque(maxlen=MOST_ERRORS)

        def log(self, severity: Any, msg: str) -> None:
            if severity in severe:
                self.errors.append(msg)
            elif "Memory" in msg:
                self.memory.append(msg)

    return Log()


def take_errors(log: Any) -> str:
    """The errors since the last call, as one line."""
    texts = list(log.errors)
    log.errors.clear()
    return as_line(texts)


def parser_errors(parser: Any) -> str:
    """The errors of TensorRT's ONNX parser or its refitter as one line: the node, where there is one, and the reason."""
    errors = []
    for index in range(parser.num_errors):
        parser_error = parser.get_error(index)
        about = f"{parser_error.node_operator()} {parser_error.node_name()}: " if parser_error.node() >= 0 else ""
        errors.append(about + parser_error.desc())
    return as_line(errors)


def as_line(texts: Iterable[str]) -> str:
    """A library's texts as one line; says so where there are none."""
    given = list(texts)
    texts = [text for text in given if NO_DRIVER not in text] or given
    return "; ".join(" ".join(WHERE.sub("", text).split()) for text in texts) or "it gave no reason"
