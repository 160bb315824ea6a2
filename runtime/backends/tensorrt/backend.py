"""TensorRT: the engines that `omnigen2 build` put into the bundle, on one stream with one scratch buffer.

Finds, checks and loads engines; `session.py` runs them. Builds none, and loads none that doesn't fit this machine and bundle. An
engine whose plugin was compiled ahead of time needs neither Triton nor the plugin's module here.
"""

from __future__ import annotations

import mmap
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
from .library import (
    import_tensorrt,
    make_error_recorder,
    make_logger,
    parser_errors,
    problem,
    take_errors,
    this_machine,
)
from .records import EngineRecord, engine_folder
from .session import TensorRTSession

PRECISIONS = ("bf16", "fp16", "fp32")

ProfileShapes = dict[str, list[list[int]]]
"""An input's smallest, typical and largest shape, by name."""


class TensorRTBackend:
    """Opens a bundle's engines.

    streams_weights: some component is larger than the memory limit, so a part of its weights may stay in host memory.
    memory_limit_bytes: the most of such a component's weights that may lie on the GPU; by default none.
    trust_engines: also run engines that this user neither built nor trusts.
    """

    def __init__(
        self,
        bundle: Bundle,
        precision: str,
        streams_weights: bool = False,
        memory_limit_bytes: int | None = None,
        trust_engines: bool = False,
    ) -> None:
        reason = problem()
        if reason is not None:
            raise BackendError(reason)
        self.name = "tensorrt"
        self.precision = self.graph_precision = precision
        self.device = Device()
        self._bundle = bundle
        self._trust_engines = trust_engines
        self._weights_limit = (memory_limit_bytes or 0) if streams_weights else None
        self._trt = import_tensorrt()
        self.errors = make_error_recorder(self._trt)
        self._logger = make_logger(self._trt)
        self._runtime = self._trt.Runtime(self._logger)
        self._runtime.error_recorder = self.errors
        self._machine = this_machine(self.device)
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
        session = TensorRTSession(engine, spec, self._trt, self.scratch, self.errors)
        self.errors.clear()  # queries of an engine's properties may have reported some
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
            self._records[component] = find_engine(bundle, component, self.precision, self._machine, trusts_all)
        return self._records[component]

    def _load(self, record: EngineRecord) -> Any:
        path = engine_folder(self._bundle.path) / record.plan
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as plan:
                engine = self._runtime.deserialize_cuda_engine(plan)  # mapped: a plan of 8 GB isn't read twice
        except (OSError, ValueError) as error:
            raise BackendError(f"{record.plan} can't be read ({error}): run `omnigen2 build` again") from error
        if engine is None:
            raise BackendError(f"TensorRT can't load {record.plan}: {take_errors(self.errors)}")
        engine.error_recorder = self.errors
        return engine

    def _refit(self, engine: Any, record: EngineRecord, spec: GraphSpec) -> None:
        """Load a stripped plan's weights from the graph that it was built from."""
        path = _graph_file(self._bundle, record, spec)
        refitter = self._trt.Refitter(engine, self._logger)
        refitter.error_recorder = self.errors
        parser = self._trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(path)):
            raise BackendError(f"TensorRT can't give {record.plan} its weights from {path.name}: {parser_errors(parser)}")
        if not refitter.refit_cuda_engine():
            raise BackendError(f"TensorRT can't give {record.plan} its weights: {take_errors(self.errors)}")

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
            raise BackendError(f"TensorRT refused a budget of {budget} bytes for {component}: {take_errors(self.errors)}")


def _graph_file(bundle: Bundle, record: EngineRecord, spec: GraphSpec) -> Path:
    """The graph that an engine was built from."""
    if record.key["rope"] == "native" and spec.inlined is not None:
        return bundle.path / spec.inlined
    return bundle.path / spec.file
