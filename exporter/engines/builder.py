"""One ONNX graph to one TensorRT engine, through polygraphy.

Knows TensorRT's builder and nothing of bundles, caches or what the graph computes. Precision lives in the graph: networks are
strongly typed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.backends.tensorrt.library import import_tensorrt, make_error_recorder
from ...runtime.errors import Cancelled, ExportError
from .cache import write_whole
from .graph_shapes import load_graph
from .network import ParseError, read_network
from .options import EngineOptions
from .parser_support import has_attention, lacks_fused_attention
from .profiles import EngineProfile

Progress = Callable[[str, int, int], object]
"""Called with what is being done, how many pieces are done, and how many there are. False stops the build."""


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A plan and how it came about. attention: "fused", "decomposable" or "none"; `notes` say what did not go as planned."""

    plan: Any
    attention: str
    seconds: float
    notes: tuple[str, ...]


def build_engine(
    graph: Path,
    precision: str,
    profiles: Sequence[EngineProfile],
    options: EngineOptions,
    *,
    rope: str,
    timing_cache: Path | None = None,
    progress: Progress = lambda what, done, total: None,
) -> BuiltEngine:
    """Build `graph` (the inlined twin for rope="native"). Needs a GPU.

    Attention without a fused kernel fails a build: then it is built again with attention that TensorRT may take apart, and the
    notes say so. Raises ExportError with TensorRT's own words, Cancelled where `progress` returned False.
    """
    started = time.monotonic()
    if rope == "plugin":
        _register_plugin()
    model = load_graph(graph)
    attends = has_attention(model)
    apart = attends and (options.decomposable_attention or lacks_fused_attention(model, precision))
    notes: list[str] = []
    plan = None
    try:
        plan = _build(graph, profiles, options, apart, timing_cache, progress, notes)
    except ExportError as error:
        if apart or not attends or isinstance(error, ParseError):
            raise
        notes.append(f"no fused attention ({error}): built with decomposable attention instead")
    if plan is None:  # out here, where the error no longer holds the first network and its weights
        apart = True
        plan = _build(graph, profiles, options, apart, timing_cache, progress, notes)
    attention = "none" if not attends else "decomposable" if apart else "fused"
    return BuiltEngine(plan=plan, attention=attention, seconds=time.monotonic() - started, notes=tuple(notes))


def _register_plugin() -> None:
    try:
        from ...plugins.omni_rope.plugin import register
    except ImportError as error:
        raise ExportError(
            f'the plugin can\'t be loaded ({error}): pip install "omnigen2-rt[tensorrt]", or --rope native'
        ) from None
    register()


def _build(
    graph: Path,
    profiles: Sequence[EngineProfile],
    options: EngineOptions,
    decomposable: bool,
    timing_cache: Path | None,
    progress: Progress,
    notes: list[str],
) -> Any:
    from polygraphy.backend.trt import EngineBytesFromNetwork, SetDecomposableAttentions
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    monitor = make_monitor(progress)
    errors = make_error_recorder(import_tensorrt())
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):  # a library prints nothing; what went wrong is in the recorder
            network: Any = read_network(graph, errors)  # its parser holds the weights until the engine is built
            if decomposable:
                network = SetDecomposableAttentions(network)()
            config = make_config(profiles, options, timing_cache, monitor)(*network[:2])
            plan = EngineBytesFromNetwork(network, config=config)()
    except PolygraphyException as error:
        _check_cancelled(monitor, graph)
        reasons = [text for _, text in errors.reported] or [_first_line(error)]
        raise ExportError(f"TensorRT can't build {graph.name}: {'; '.join(map(_first_line, reasons))}") from error
    _check_cancelled(monitor, graph)
    if timing_cache is not None and options.optimization_level > 0:
        notes += keep_timings(config, timing_cache)
    return plan


def _check_cancelled(monitor: Any, graph: Path) -> None:
    if monitor.raised is not None:
        raise monitor.raised
    if monitor.cancelled:
        raise Cancelled(f"the build of {graph.name} was stopped")


def keep_timings(config: Any, path: Path) -> list[str]:
    """Add what a build has measured to a file of timings. Gives a note where the disk refuses: the engine is good without."""
    timings = config.get_timing_cache()
    if timings is None:
        return []
    try:
        if path.is_file():  # another builder may have added to it
            known = config.create_timing_cache(path.read_bytes())
            if known is not None:
                timings.combine(known, ignore_mismatch=True)
        write_whole(path, bytes(timings.serialize()))
    except OSError as error:
        return [f"measured timings are not kept ({error.strerror or error})"]
    return []


def make_config(
    profiles: Sequence[EngineProfile], options: EngineOptions, timing_cache: Path | None, monitor: Any = None
) -> Any:
    """polygraphy's recipe for a builder configuration."""
    import tensorrt as trt
    from polygraphy.backend.trt import CreateConfig, Profile

    made = []
    for wanted in profiles:
        profile = Profile()
        for name, (smallest, typical, largest) in wanted.shapes.items():
            profile.add(name, min=smallest, opt=typical, max=largest)
        made.append(profile)
    limits = {} if options.workspace_bytes is None else {trt.MemoryPoolType.WORKSPACE: options.workspace_bytes}
    hardware = getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper())
    known = timing_cache is not None and timing_cache.is_file() and options.optimization_level > 0
    return CreateConfig(
        profiles=made,
        load_timing_cache=str(timing_cache) if known else None,
        builder_optimization_level=options.optimization_level,
        memory_pool_limits=limits,
        weight_streaming=options.weight_streaming,
        strip_plan=options.strip_plan,
        version_compatible=options.version_compatible,
        hardware_compatibility_level=hardware,
        progress_monitor=monitor,
    )


def make_monitor(progress: Progress) -> Any:
    """TensorRT's progress as calls of `progress`; its False stops the build, and `cancelled` says so.

    TensorRT calls this from several threads and nests its phases. What `progress` raises stops the build too and is kept in
    `raised`: TensorRT would print it and forget it, and so would a Ctrl-C be lost.
    """
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.cancelled = False
            self.raised: BaseException | None = None
            self.phases: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not self.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            try:
                if progress(phase, done, self.phases.get(phase, done)) is False:
                    self.cancelled = True
            except BaseException as error:
                self.cancelled, self.raised = True, self.raised or error

    return Monitor()


def _first_line(error: Exception | str) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
