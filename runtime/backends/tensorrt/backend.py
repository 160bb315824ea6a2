"""The engines that `omnigen2 build` put into the bundle, on one stream with one scratch buffer, for either library.

Finds, checks and loads engines; `session.py` runs them. Builds none, and loads none that doesn't fit this machine and bundle. An
engine whose plugin was compiled ahead of time needs neither Triton nor the plugin's module here.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...bundle import Bundle
from ...errors import BackendError
from ...manifest import GraphSpec
from ..backend import DeviceArray
from .cuda import Device
from .cuda_graphs import Scratch
from .engines import find_engine
from .kernel_cache import KernelCache
from .library import Library, make_log, parser_errors, take_errors
from .records import EngineRecord, engine_folder
from .session import TensorRTSession

SPECIALIZATIONS = ("lazy", "eager", "none")

ProfileShapes = dict[str, list[list[int]]]
"""An input's smallest, typical and largest shape, by name."""


class TensorRTBackend:
    """Opens a bundle's engines.

    library: the one that runs them.
    streams_weights: some component is larger than the memory limit, so a part of its weights may stay in host memory.
    memory_limit_bytes: the most of such a component's weights that may lie on the GPU; by default none.
    trust_engines: also run engines that this user neither built nor trusts.
    specialization: "lazy", "eager" or "none", see `load`; TensorRT for RTX only.
    """

    def __init__(
        self,
        library: Library,
        bundle: Bundle,
        precision: str,
        streams_weights: bool = False,
        memory_limit_bytes: int | None = None,
        trust_engines: bool = False,
        specialization: str = "lazy",
    ) -> None:
        reason = library.problem()
        if reason is not None:
            raise BackendError(reason)
        if specialization not in SPECIALIZATIONS:
            raise BackendError(f"specialization={specialization!r} is not one of {', '.join(SPECIALIZATIONS)}")
        self.name = library.name
        self.precision = self.graph_precision = precision
        self.device = Device()
        self._bundle = bundle
        self._library = library
        self._trust_engines = trust_engines
        self._specialization = specialization
        self._weights_limit = (memory_limit_bytes or 0) if streams_weights else None
        self._trt = library.load()
        self._log = make_log(self._trt)
        self._runtime = self._trt.Runtime(self._log)
        self._machine = library.machine(self.device)
        self._records: dict[str, EngineRecord] = {}
        self.scratch = Scratch(self.device)

    def open(self, component: str) -> TensorRTSession:
        """See Backend.open. Raises BackendError where no engine fits this machine and this bundle."""
        record, spec = self._record(component), self._bundle.graph(component, self.precision)
        # Such a plan contains its own small runtime, which is code. Whether the engine may run at all, the user has decided.
        self._runtime.engine_host_code_allowed = record.key["options"]["version_compatible"]
        self.device.trim()  # TensorRT allocates weights without our pool
        engine = self._load(record)
        if record.key["options"]["strip_plan"]:
            self._refit(engine, record, spec)
        if self._weights_limit is not None and spec.resident_bytes > self._weights_limit:
            self._limit_weights(engine, component, self._weights_limit)
        contexts = self._library.contexts(engine, self._kernels(record), self._specialization)
        session = TensorRTSession(engine, spec, contexts, self._trt, self.scratch, self._log)
        self._log.errors.clear()  # queries of an engine's properties may have reported some
        return session

    def profiles(self, component: str) -> dict[str, ProfileShapes]:
        """The shapes that the component's engine was built for, by profile."""
        return {profile["name"]: profile["shapes"] for profile in self._record(component).key["profiles"]}

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        return self.device.upload(array, dtype)

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        return self.device.download(array)

    def _record(self, component: str) -> EngineRecord:
        """The component's engine. Its plan is hashed once: under a memory limit a component is opened many times."""
        if component not in self._records:
            bundle, trusts_all = self._bundle, self._trust_engines
            self._records[component] = find_engine(
                bundle, component, self.precision, self._machine, trusts_all, self._refusal
            )
        return self._records[component]

    def _refusal(self, record: EngineRecord) -> str | None:
        """Why the library can't run a whole engine on this GPU, or None."""
        with self._plan(record) as plan:
            return self._library.refusal(self._runtime, plan)

    def _kernels(self, record: EngineRecord) -> KernelCache:
        """The place of the kernels that are compiled for this engine on this GPU."""
        return KernelCache(self._bundle.path, record, {**asdict(self._machine), **self.device.identity()})

    @contextmanager
    def _plan(self, record: EngineRecord) -> Iterator[memoryview]:
        """An engine's plan, mapped: one of 8 GB isn't read twice. Raises BackendError."""
        path = engine_folder(self._bundle.path) / record.plan
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                with memoryview(mapped) as plan:
                    yield plan
        except (OSError, ValueError) as error:
            raise BackendError(f"{record.plan} can't be read ({error}): run `omnigen2 build` again") from error

    def _load(self, record: EngineRecord) -> Any:
        with self._plan(record) as plan:
            engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(f"{self._library.title} can't load {record.plan}: {take_errors(self._log)}")
        return engine

    def _refit(self, engine: Any, record: EngineRecord, spec: GraphSpec) -> None:
        """Load a stripped plan's weights from the graph that it was built from."""
        path = _graph_file(self._bundle, record, spec)
        refitter = self._trt.Refitter(engine, self._log)
        parser = self._trt.OnnxParserRefitter(refitter, self._log)
        failure = f"{self._library.title} can't give {record.plan} its weights"
        if not parser.refit_from_file(str(path)):
            raise BackendError(f"{failure} from {path.name}: {parser_errors(parser)}")
        if not refitter.refit_cuda_engine():
            raise BackendError(f"{failure}: {take_errors(self._log)}")

    def _limit_weights(self, engine: Any, component: str, limit: int) -> None:
        """Keep the weights beyond the limit in host memory. TensorRT takes a budget only before the first context.

        Its own suggestion (`get_weight_streaming_automatic_budget`) ignores the limit, and its Python binding (11.1) cuts it to
        32 bits.
        """
        streamable = int(engine.streamable_weights_size)
        if not streamable:
            raise BackendError(
                f"the weights of {component} are larger than the memory limit of {limit} bytes, and its engine can't stream "
                "them: run `omnigen2 build --weight-streaming`, or raise the limit"
            )
        budget = min(limit, streamable)
        engine.weight_streaming_budget_v2 = budget
        if int(engine.weight_streaming_budget_v2) != budget:
            reason = take_errors(self._log)
            raise BackendError(f"{self._library.title} refused a budget of {budget} bytes for {component}: {reason}")


def _graph_file(bundle: Bundle, record: EngineRecord, spec: GraphSpec) -> Path:
    """The graph that an engine was built from."""
    if record.key["rope"] == "native" and spec.inlined is not None:
        return bundle.path / spec.inlined
    return bundle.path / spec.file
