"""Builds one engine from one ONNX graph, with either of NVIDIA's libraries. What differs stands in standard.py and rtx.py.

Knows the libraries' builder and nothing of bundles, caches or what the graph computes. Precision lives in the graph: networks are
strongly typed. An engine is written piece by piece, so that its bytes are never in memory beside the weights.
"""

from __future__ import annotations

import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from ...runtime.backends.tensorrt.library import Library, make_log, take_errors
from ...runtime.errors import Cancelled, ExportError
from ...runtime.progress import Progress, no_progress
from .callbacks import PlanFile, interrupts_held, make_monitor, make_writer
from .network import ParseError, attention_layers, lacks_fused_kernel, make_decomposable, parsed_network
from .options import EngineOptions
from .profiles import EngineProfile

MEMORY_LINE = re.compile(r"(Max Scratch|Total Weights) Memory: (\d+) bytes")


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """The report of a build: all but the engine's bytes.

    attention: "fused", "decomposable" or "none".
    seconds: the time that the build took.
    scratch_bytes, weight_bytes: its memory on the GPU beside inputs and outputs, as the library's log states it; None where it
        states none.
    notes: departures from the options, for people.
    """

    attention: str
    seconds: float
    scratch_bytes: int | None
    weight_bytes: int | None
    notes: tuple[str, ...]


class EngineBuilder(ABC):
    """Builds engines of one library.

    library: the library.
    ropes: the implementations of Omni-RoPE that it can build, best first; see BuildOptions.
    """

    library: ClassVar[Library]
    ropes: ClassVar[tuple[str, ...]]

    @abstractmethod
    def problem(self, rope: str) -> str | None:
        """Why engines can't be built here, or None."""

    @abstractmethod
    def completed(self, options: EngineOptions, precision: str) -> EngineOptions:
        """The options with this library's defaults. Raises ExportError for those that it doesn't have."""

    @abstractmethod
    def configure(self, trt: Any, config: Any, options: EngineOptions) -> None:
        """Set what only this library has."""

    def advice(self, reasons: str) -> str:
        """Advice on the library's reasons against an engine; empty where none is known."""
        return ""

    def prepare(self, rope: str) -> None:  # noqa: B027 (one library has nothing to make ready)
        """Make ready what the parser needs. Raises ExportError."""

    def load_timings(self, config: Any, file: Path, notes: list[str]) -> Callable[[], None]:
        """Start with measured timings, where the library measures. Returns what stores those of the build."""
        return lambda: None

    def parser_problem(self) -> str | None:
        """Why the library's parser can't be asked, or None. It needs no GPU."""
        return self.library.version_problem()

    def parse(self, graph: Path, rope: str) -> str | None:
        """Why the library's parser refuses a graph, or None."""
        self.prepare(rope)
        try:
            with parsed_network(self.library, graph):
                return None
        except ParseError as error:
            return str(error)

    def build(
        self,
        graph: Path,
        profiles: Sequence[EngineProfile],
        options: EngineOptions,
        plan: PlanFile,
        *,
        rope: str,
        timings: Path | None = None,
        progress: Progress = no_progress,
    ) -> BuiltEngine:
        """Build `graph` (the inlined twin for rope="native") into `plan`.

        A build fails where attention has no fused kernel. It is then repeated with decomposable attention, and a note says so.
        timings: the file of measured timings, where the library measures. Raises ExportError with the library's message,
        Cancelled where `progress` returned False, and what `plan` raises.
        """
        self.prepare(rope)
        started = time.monotonic()
        job = _Job(self, graph, profiles, options, timings, progress)
        attention, memory = job.run(plan)
        return BuiltEngine(
            attention=attention,
            seconds=time.monotonic() - started,
            scratch_bytes=memory.get("Max Scratch"),
            weight_bytes=memory.get("Total Weights"),
            notes=tuple(job.notes),
        )


def missing_module(name: str, purpose: str, extra: str) -> str | None:
    """The problem where a module isn't installed, or None."""
    if find_spec(name) is not None:
        return None
    return f'{purpose}, is not installed: pip install "omnigen2-rt[{extra}]"'


class _Job:
    """One build, of one or two tries."""

    def __init__(
        self,
        builder: EngineBuilder,
        graph: Path,
        profiles: Sequence[EngineProfile],
        options: EngineOptions,
        timings: Path | None,
        progress: Progress,
    ) -> None:
        self.builder = builder
        self.trt = builder.library.load()
        self.graph = graph
        self.profiles = profiles
        self.options = options
        self.timings = timings
        self.progress = progress
        self.notes: list[str] = []

    def run(self, plan: PlanFile) -> tuple[str, dict[str, int]]:
        """Builds. Returns what became of attention, and the memory that the log states."""
        try:
            return self._try(plan, self.options.decomposable_attention)
        except _NoEngine as error:
            if not error.decomposing_may_help:
                raise
            reason = str(error)
        self.notes.append(f"no fused attention ({reason}): built with decomposable attention instead")
        plan.restart()  # outside the handler: the error would keep the first network and its weights alive
        return self._try(plan, True)

    def _try(self, plan: PlanFile, decomposable: bool) -> tuple[str, dict[str, int]]:
        trt, library = self.trt, self.builder.library
        writer, log = make_writer(trt, plan), make_log(trt)
        with parsed_network(library, self.graph) as (builder, network):
            layers = attention_layers(trt, network)
            decomposed = [layer for layer in layers if decomposable or lacks_fused_kernel(trt, layer)]
            for layer in decomposed:
                make_decomposable(trt, layer)
            config = self._config(builder)
            timings = None if self.timings is None else self.builder.load_timings(config, self.timings, self.notes)
            log.memory.clear()
            with interrupts_held() as is_interrupted:
                config.progress_monitor = monitor = make_monitor(trt, self.progress, is_interrupted)
                done = builder.build_serialized_network_to_stream(network, config, writer)
            for raised in filter(None, (monitor.raised, writer.raised)):
                raise raised
            if monitor.cancelled or is_interrupted():
                raise Cancelled(f"the build of {self.graph.name} was stopped")
            if not done:
                may_help = len(decomposed) < len(layers)
                reasons = take_errors(log)
                advice = self.builder.advice(reasons)
                raise _NoEngine(f"{library.title} can't build {self.graph.name}: {reasons}{advice}", may_help)
            if timings is not None:
                timings()
        attention = "none" if not layers else "decomposable" if decomposed else "fused"
        return attention, _memory(log.memory)

    def _config(self, builder: Any) -> Any:
        """The builder's configuration. Raises ExportError for a profile that the library refuses."""
        trt, options, flag = self.trt, self.options, self.trt.BuilderFlag
        config = builder.create_builder_config()
        config.builder_optimization_level = options.optimization_level
        config.clear_flag(flag.TF32)  # float32 means float32
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        if options.weight_streaming:
            config.set_flag(flag.WEIGHT_STREAMING)
        if options.strip_plan:
            config.set_flag(flag.STRIP_PLAN)
        self.builder.configure(trt, config, options)
        for profile in self.profiles:
            self._add_profile(builder, config, profile)
        return config

    def _add_profile(self, builder: Any, config: Any, profile: EngineProfile) -> None:
        made, title = builder.create_optimization_profile(), self.builder.library.title
        try:
            for name, (smallest, typical, largest) in profile.shapes.items():
                made.set_shape(name, smallest, typical, largest)
        except (ValueError, TypeError, RuntimeError) as error:  # sizes that don't go together, or beyond its integers
            reason = str(error).strip().splitlines()[0]
            raise ExportError(f"{title} refused the profile {profile.name} of {self.graph.name}: {reason}") from error
        if config.add_optimization_profile(made) < 0:
            raise ExportError(f"{title} refused the profile {profile.name} of {self.graph.name}")


class _NoEngine(ExportError):
    """A build that gave no engine. decomposing_may_help: some attention layer asked for a fused kernel."""

    def __init__(self, message: str, decomposing_may_help: bool) -> None:
        super().__init__(message)
        self.decomposing_may_help = decomposing_may_help


def _memory(lines: Iterable[str]) -> dict[str, int]:
    """The largest value that each of the log's lines about memory states: it has some for every profile."""
    found: dict[str, int] = {}
    for line in lines:
        if match := MEMORY_LINE.search(line):
            found[match[1]] = max(int(match[2]), found.get(match[1], 0))
    return found

