"""Builds one TensorRT engine from one ONNX graph, through polygraphy.

Knows TensorRT's builder and nothing of bundles, caches or what the graph computes. Precision lives in the graph: networks are
strongly typed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ...runtime.backends.tensorrt.library import import_tensorrt, make_error_recorder
from ...runtime.errors import Cancelled, ExportError
from ...runtime.files.writing import write_whole
from ...runtime.progress import Progress, no_progress
from .fused_attention import has_attention, lacks_fused_attention
from .graph_shapes import load_graph
from .options import EngineOptions
from .profiles import EngineProfile
from .progress_monitor import make_monitor
from .tensorrt_network import ParseError, read_network


@dataclass(frozen=True, kw_only=True)
class BuiltEngine:
    """A serialized engine and how it was built.

    plan: the engine as TensorRT's host memory, a buffer.
    attention: "fused", "decomposable" or "none".
    seconds: the time that the build took.
    notes: departures from the options, for people.
    """

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
    progress: Progress = no_progress,
) -> BuiltEngine:
    """Build `graph` (the inlined twin for rope="native"). Needs a GPU.

    A build fails where attention has no fused kernel. It is then repeated with decomposable attention, and a note says so.
    Raises ExportError with TensorRT's message, and Cancelled where `progress` returned False.
    """
    started = time.monotonic()
    if rope == "plugin":
        _register_plugin()
    model = load_graph(graph)
    attends = has_attention(model)
    decomposable = attends and (options.decomposable_attention or lacks_fused_attention(model, precision))
    build = partial(_build, graph, profiles, options, timing_cache, progress)
    notes: list[str] = []
    plan = None
    try:
        plan = build(decomposable, notes)
    except ExportError as error:
        if decomposable or not attends or isinstance(error, ParseError):
            raise
        notes.append(f"no fused attention ({error}): built with decomposable attention instead")
    if plan is None:  # outside the handler: the error would keep the first network and its weights alive
        decomposable = True
        plan = build(decomposable, notes)
    attention = "none" if not attends else "decomposable" if decomposable else "fused"
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
    timing_cache: Path | None,
    progress: Progress,
    decomposable: bool,
    notes: list[str],
) -> Any:
    """The serialized engine. Adds a note where measured timings can't be stored."""
    from polygraphy.backend.trt import EngineBytesFromNetwork, SetDecomposableAttentions
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    monitor = make_monitor(progress)
    errors = make_error_recorder(import_tensorrt())
    try:
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):  # a library prints nothing; the recorder holds the errors
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
        notes += store_timings(config, timing_cache)
    return plan


def _check_cancelled(monitor: Any, graph: Path) -> None:
    if monitor.raised is not None:
        raise monitor.raised
    if monitor.cancelled:
        raise Cancelled(f"the build of {graph.name} was stopped")


def store_timings(config: Any, path: Path) -> list[str]:
    """Add a build's measured timings to a file. Returns a note where the disk refuses: the engine doesn't need them."""
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
    """polygraphy's loader of a builder configuration."""
    import tensorrt as trt
    from polygraphy.backend.trt import CreateConfig

    limits = {} if options.workspace_bytes is None else {trt.MemoryPoolType.WORKSPACE: options.workspace_bytes}
    has_timings = timing_cache is not None and timing_cache.is_file() and options.optimization_level > 0
    return CreateConfig(
        profiles=[_polygraphy_profile(profile) for profile in profiles],
        load_timing_cache=str(timing_cache) if has_timings else None,
        builder_optimization_level=options.optimization_level,
        memory_pool_limits=limits,
        weight_streaming=options.weight_streaming,
        strip_plan=options.strip_plan,
        version_compatible=options.version_compatible,
        hardware_compatibility_level=getattr(trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper()),
        progress_monitor=monitor,
    )


def _polygraphy_profile(profile: EngineProfile) -> Any:
    from polygraphy.backend.trt import Profile

    converted = Profile()
    for name, (smallest, typical, largest) in profile.shapes.items():
        converted.add(name, min=smallest, opt=typical, max=largest)
    return converted


def _first_line(error: Exception | str) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
