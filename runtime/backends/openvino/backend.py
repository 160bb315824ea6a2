"""OpenVINO on a CPU: the bundle's graphs, compiled here, kept compiled on disk.

Knows OpenVINO's models, requests and tensors, and nothing of what the graphs mean. In bf16 it compiles the fp32 graphs, whose
weights and products OpenVINO then converts: what goes in and comes out stays fp32.
"""

from __future__ import annotations

import hashlib
import mmap
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ...bundle import Bundle
from ...errors import BackendError
from ...manifest import GraphSpec
from ..backend import DeviceArray, check_names
from ..machine import usable_cores
from .compiled import CompiledModels, make_key
from .mapped_pages import give_back
from .products import align_products, split_feed_forward
from .rotation import rotate_by_products
from .weights import keep_stored_weights

GRAPHS = {"bf16": ("fp32", "bf16")}
DEVICE = "CPU"
HINTS = {"fp32": "f32", "bf16": "bf16"}
PAGE = mmap.PAGESIZE
TENSOR_TYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "bool": "boolean"}


def import_openvino() -> Any:
    """The openvino module, or BackendError that says which extra brings it."""
    try:
        with _without_telemetry():
            import openvino
    except ImportError:
        raise BackendError('no OpenVINO is installed: pip install "omnigen2-rt[openvino]"') from None
    return openvino


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """`import openvino` tells its makers of itself over the network if it finds this package, and does without if not."""
    package = "openvino_telemetry"
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


@cache
def core() -> Any:
    """OpenVINO's one entry; its parts are loaded once a process."""
    return import_openvino().Core()


def problem() -> str | None:
    """Why this backend can't work here, or None."""
    try:
        devices = core().available_devices
    except BackendError as error:
        return str(error)
    return None if DEVICE in devices else f"OpenVINO finds no {DEVICE} here, only {', '.join(devices) or 'nothing'}"


@cache
def precisions(threads: int | None = None) -> tuple[str, ...]:
    """What this CPU computes, best first: bf16 only where it has instructions for it; elsewhere that would be slower.

    On one thread or core no bf16: OpenVINO divides the cores by two and ends the whole process (its issue 33300, 2026.4).
    """
    if problem() is not None:
        return ("bf16", "fp32")
    if 1 in (threads, usable_cores()):
        return ("fp32",)
    by_default = core().get_property(DEVICE, "INFERENCE_PRECISION_HINT").to_string()
    capable = "BF16" in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "fp32") if capable and by_default != "f32" else ("fp32",)


class OpenVINOBackend:
    """Opens a bundle's graphs with OpenVINO.

    graphs: which of the bundle's; `GRAPHS` says which serve a precision. pads: whether small graphs may hold padded weights
    beside the packed ones, which no memory limit counts.
    """

    def __init__(
        self, bundle: Bundle, precision: str, graphs: str, threads: int | None = None, pads: bool = True
    ) -> None:
        reason = problem()
        if reason is not None:
            raise BackendError(reason)
        self.name = "openvino"
        self.precision = precision
        self.graph_precision = graphs
        self.openvino = import_openvino()
        self._bundle = bundle
        self._pads = pads
        self._compiled = CompiledModels(bundle.path)
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            # Threads bound to cores are a little faster, but those of a second process would be bound to the same cores: that is
            # no loss only where the first one uses all of them anyway.
            "ENABLE_CPU_PINNING": threads is None or threads >= usable_cores(),
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads

    def open(self, component: str) -> OpenVINOSession:
        """See Backend.open."""
        spec = self._bundle.graph(component, self.graph_precision)
        options = {**self._options, "INFERENCE_PRECISION_HINT": HINTS["fp32" if spec.keeps_float32 else self.precision]}
        rewrites = {"pads": self._pads} if self._reshapes(spec) else {}
        key = make_key(self._bundle, spec, engine=self.openvino.get_version(), cpu=cpu(), options=options | rewrites)
        kept = self._compiled.load(key)
        compiled = None if kept is None else self._import(kept, options)
        if compiled is not None:
            return OpenVINOSession(compiled, spec, self, memory=kept)
        compiled, source, shared = self._compile(spec, options)
        if CompiledModels.keeps(spec) and not _loses_in_export(compiled):
            self._compiled.store(key, compiled.export_model().getvalue())
        give_back(_large_constants(source))
        return OpenVINOSession(compiled, spec, self, memory=shared, source=source)

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        tensor = self.openvino.Tensor(getattr(self.openvino.Type, TENSOR_TYPES[dtype]), list(array.shape))
        _view(tensor)[...] = array
        return tensor

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        host = _view(array)
        return np.array(host, np.float32 if host.dtype.itemsize == 2 else host.dtype)

    def _reshapes(self, spec: GraphSpec) -> bool:
        """Whether a graph's products get other shapes; products of a few rows gain nothing from it."""
        return self.precision == "bf16" and spec.picture_rows

    def _compile(self, spec: GraphSpec, options: Mapping[str, Any]) -> tuple[Any, Any, list[Any]]:
        """The compiled model, the one that it was compiled from, and constants whose memory both read."""
        path = self._bundle.path / (spec.inlined or spec.file)
        shared = []
        try:
            model = core().read_model(path)
            rotate_by_products(model)
            if self._reshapes(spec):
                if self._pads:
                    align_products(model)
                shared = split_feed_forward(model)
            keep_stored_weights(model)
            return core().compile_model(model, DEVICE, options), model, shared
        except Exception as error:  # OpenVINO raises RuntimeError and its children of many modules
            raise BackendError(f"OpenVINO can't open {path.name}: {_last_line(error)}") from error

    def _import(self, kept: np.ndarray, options: Mapping[str, Any]) -> Any:
        """A kept model, or None where OpenVINO refuses it: then it is compiled again."""
        try:
            return core().import_model(self.openvino.Tensor(kept, shared_memory=True), DEVICE, options)
        except Exception:  # see _compile; what its own check refuses is no error of the user's
            return None


class OpenVINOSession:
    """One compiled graph. Inputs are checked by name and rank; their dynamic sizes are the engine's to check.

    memory: what `compiled` goes on reading from, mapped or held by constants; it must outlive it, and so is dropped after it.
    source: the model that `compiled` was made from. The first run reads its mapped weights to pack them, and then their pages are
    given back, as they were after compiling.
    """

    def __init__(
        self, compiled: Any, spec: GraphSpec, backend: OpenVINOBackend, memory: object, source: Any = None
    ) -> None:
        self._compiled = compiled
        self._spec = spec
        self._backend = backend
        self._memory = memory
        self._source = source

    def run(self, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """See Session.run. Each run is a new request (microseconds), so that its outputs are the caller's own memory."""
        spec = self._spec
        check_names(spec, feeds)
        tensors = {name: self._tensor(name, array) for name, array in feeds.items()}
        request = self._compiled.create_infer_request()
        try:
            for name, tensor in tensors.items():
                request.set_tensor(name, tensor)
            request.start_async()
            request.wait()
        except Exception as error:  # see OpenVINOBackend._compile
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise BackendError(f"{spec.component} failed on {shapes}: {_last_line(error)}") from error
        source, self._source = self._source, None
        if source is not None:
            give_back(_large_constants(source))
        return {name: request.get_tensor(name) for name in spec.outputs}

    def _tensor(self, name: str, array: DeviceArray | np.ndarray) -> Any:
        spec = self._spec.inputs[name]
        tensor = self._backend.to_device(array, spec.dtype) if isinstance(array, np.ndarray) else array
        if len(tensor.shape) != len(spec.shape):
            raise BackendError(
                f"{self._spec.component} takes {name} of shape {spec.shape}; it was given {tuple(tensor.shape)}"
            )
        return tensor


def _large_constants(model: Any) -> list[int]:
    """Where the model's constants lie, those of a page or more."""
    constants = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    return [node.data.ctypes.data for node in constants if node.get_byte_size() >= PAGE]


def _loses_in_export(compiled: Any) -> bool:
    """Whether a compiled model would compute something else when read again: see rotation.py."""
    kinds = (node.get_rt_info()["layerType"] for node in compiled.get_runtime_model().get_ops())
    return any((kind if isinstance(kind, str) else kind.value) == "RoPE" for kind in kinds)


@cache
def cpu() -> str:
    """What a compiled model is bound to: the CPU's name and everything it can, as one hash."""
    told = [platform.machine(), core().get_property(DEVICE, "FULL_DEVICE_NAME"), _cpu_flags()]
    told += sorted(core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))
    return hashlib.sha256("\0".join(told).encode()).hexdigest()


def _cpu_flags() -> str:
    """Linux lists a CPU's abilities in a file; elsewhere the name has to do."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")


def _view(tensor: Any) -> np.ndarray:
    """A tensor's memory as numpy; OpenVINO shows bfloat16 as float16."""
    view: np.ndarray = tensor.data
    return view.view(ml_dtypes.bfloat16) if tensor.element_type.to_string() == "bf16" else view


def _last_line(error: Exception) -> str:
    """OpenVINO's messages begin with the places in its source that they passed through, and end with the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
