"""OpenVINO on a CPU: the bundle's graphs, compiled here, and the compiled models kept on disk.

Knows OpenVINO's models, requests and tensors, and nothing of what the graphs mean. In bf16 it compiles the fp32 graphs, whose
weights and products OpenVINO then converts: inputs and outputs stay fp32.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...dtypes import BFLOAT16, DTYPES, PRECISIONS
from ...errors import BackendError
from ...manifest import GraphSpec
from ..backend import DeviceArray, check_names
from ..machine_limits import usable_cores
from .compiled_models import CompiledModels, make_key
from .library import (
    DEVICE,
    check_process,
    cpu_identity,
    import_openvino,
    last_line,
    note_threads,
    openvino_core,
    problem,
)
from .mapped_pages import release_pages
from .rewrite_reports import RewriteReport
from .rewrites import changes_products, read_rewritten

GRAPHS = {"bf16": ("fp32", "bf16")}
"""The graphs that serve a precision, best first; other precisions run their own."""
PAGE_BYTES = mmap.PAGESIZE


class OpenVINOBackend:
    """Opens a bundle's graphs with OpenVINO.

    graphs: the precision of the graphs that it opens; `GRAPHS` lists those that serve a precision.
    pads: whether graphs may hold padded weights beside the packed ones, which no memory limit counts.
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
        self._compiled = CompiledModels()
        self.rewrites: dict[str, tuple[RewriteReport, ...]] = {}
        """The reports of the rewrites of each component that was compiled, not read from disk."""
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            # Pinned threads are a little faster, but a second process would pin its own to the same cores. That costs nothing
            # where the first process uses all cores anyway.
            "ENABLE_CPU_PINNING": threads is None or threads >= usable_cores(),
        }
        if threads is not None:
            self._options["INFERENCE_NUM_THREADS"] = threads

    def open(self, component: str) -> OpenVINOSession:
        """See Backend.open."""
        check_process()
        spec = self._bundle.graph(component, self.graph_precision)
        hint = PRECISIONS["fp32" if spec.keeps_float32 else self.precision].openvino
        options = {**self._options, "INFERENCE_PRECISION_HINT": hint}
        rewrites = {"pads": self._pads} if changes_products(spec, self.precision) else {}
        engine = self.openvino.get_version()
        key = make_key(self._bundle, spec, engine=engine, cpu=cpu_identity(), options=options | rewrites)
        stored = self._compiled.load(key)
        compiled = None if stored is None else self._import(stored, options)
        if compiled is not None:
            _check_ports(spec, compiled)
            return OpenVINOSession(compiled, spec, self, memory=stored)
        source = read_rewritten(self._bundle, spec, self.precision, self._pads)
        self.rewrites[component] = source.reports
        compiled = self._compile(source.model, spec, options)
        _check_ports(spec, compiled)
        if CompiledModels.keeps(spec) and not _changes_in_export(compiled):
            self._compiled.store(key, compiled.export_model().getvalue())
        release_pages(_large_constants(source.model))
        return OpenVINOSession(compiled, spec, self, memory=source.shared, source=source.model)

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        tensor = self.openvino.Tensor(getattr(self.openvino.Type, DTYPES[dtype].openvino), list(array.shape))
        _view(tensor)[...] = array
        return tensor

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        host = _view(array)
        return np.array(host, np.float32 if host.dtype.itemsize == 2 else host.dtype)

    def _compile(self, model: Any, spec: GraphSpec, options: Mapping[str, Any]) -> Any:
        note_threads()
        try:
            return openvino_core().compile_model(model, DEVICE, options)
        except Exception as error:  # OpenVINO raises RuntimeError and its children of many modules
            raise BackendError(f"OpenVINO can't open {spec.inlined or spec.file}: {last_line(error)}") from error

    def _import(self, stored: np.ndarray, options: Mapping[str, Any]) -> Any:
        """A model from disk, or None where OpenVINO refuses it."""
        note_threads()
        try:
            return openvino_core().import_model(self.openvino.Tensor(stored, shared_memory=True), DEVICE, options)
        except Exception:  # see _compile; the graph is compiled again
            return None


class OpenVINOSession:
    """One compiled graph. Inputs are checked by name and rank; their dynamic sizes are the engine's to check.

    memory: a mapped file or constants that `compiled` reads from. It must outlive it, and so is freed after it.
    source: the model that was compiled. The first run reads its mapped weights to pack them; their pages are released afterwards,
    as they were after compiling.
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
        """See Session.run. Each run makes a new request (microseconds), so that its outputs are the caller's own memory."""
        check_process()
        spec = self._spec
        check_names(spec, feeds)
        tensors = {name: self._tensor(name, array) for name, array in feeds.items()}
        request = self._compiled.create_infer_request()
        try:
            for name, tensor in tensors.items():
                request.set_tensor(name, tensor)
            request.start_async()
            request.wait()
            outputs = {name: request.get_tensor(name) for name in spec.outputs}
        except Exception as error:  # see OpenVINOBackend._compile
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            raise BackendError(f"{spec.component} failed on {shapes}: {last_line(error)}") from error
        source, self._source = self._source, None
        if source is not None:
            release_pages(_large_constants(source))
        return outputs

    def _tensor(self, name: str, array: DeviceArray | np.ndarray) -> Any:
        spec = self._spec.inputs[name]
        tensor = self._backend.to_device(array, spec.dtype) if isinstance(array, np.ndarray) else array
        if len(tensor.shape) != len(spec.shape):
            raise BackendError(
                f"{self._spec.component} takes {name} of shape {spec.shape}; it was given {tuple(tensor.shape)}"
            )
        return tensor


def _check_ports(spec: GraphSpec, compiled: Any) -> None:
    """Raises BackendError unless a graph has the inputs and outputs that the manifest states: OpenVINO misses no input."""
    for kind, stated, ports in (("inputs", spec.inputs, compiled.inputs), ("outputs", spec.outputs, compiled.outputs)):
        names = {name for port in ports for name in port.names}
        if not stated.keys() <= names or len(ports) != len(stated):
            has = f"{spec.file} has the {kind} {', '.join(sorted(names))}"
            raise BackendError(f"{has} where the bundle states {', '.join(stated) or 'none'}: export it again")


def _large_constants(model: Any) -> list[int]:
    """The addresses of the model's constants of a page or more."""
    constants = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant")
    return [node.data.ctypes.data for node in constants if node.get_byte_size() >= PAGE_BYTES]


def _changes_in_export(compiled: Any) -> bool:
    """Whether a compiled model would compute something else when it is read again: see rewrite_rope.py."""
    layers = (node.get_rt_info()["layerType"] for node in compiled.get_runtime_model().get_ops())
    return any((layer if isinstance(layer, str) else layer.value) == "RoPE" for layer in layers)


def _view(tensor: Any) -> np.ndarray:
    """A tensor's memory as numpy; OpenVINO shows bfloat16 as float16."""
    view: np.ndarray = tensor.data
    return view.view(BFLOAT16.numpy) if tensor.element_type.to_string() == BFLOAT16.openvino else view
