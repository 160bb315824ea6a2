"""The plan of a build: which engines a bundle needs, what the library's parser refuses, and how much memory they take.

Works without the library: engines then have no keys, and the plan says why none can be built and that no parser was asked.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ...runtime.backends.cache_keys import Key
from ...runtime.backends.tensorrt.cuda import Device
from ...runtime.backends.tensorrt.engines import Machine, make_key
from ...runtime.backends.tensorrt.library import cuda_problem
from ...runtime.backends.tensorrt.records import EngineRecord
from ...runtime.bundle import Bundle
from ...runtime.dtypes import DTYPES
from ...runtime.errors import BackendError, BundleError, Cancelled, ExportError
from ...runtime.manifest import GraphSpec
from ...runtime.progress import Progress, no_progress
from .builders import choose_builder
from .engine_builder import BuiltEngine, EngineBuilder
from .engine_store import stored_engine
from .options import BuildOptions, EngineOptions
from .profiles import EngineProfile, ShapeRange, engine_profiles

BEST_FIRST = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class PlannedEngine:
    """One engine of a plan.

    file: the graph file that the library reads.
    refusal: why its parser refuses the graph, or None; also None where it wasn't asked.
    weight_bytes: the weights on the GPU.
    tensor_bytes: all inputs and outputs at their largest shapes.
    key: None without the library.
    stored: the bundle's engine of this key, or None.
    measured: a build that was made for its figures, or None.
    """

    graph: GraphSpec
    file: Path
    profiles: tuple[EngineProfile, ...]
    refusal: str | None
    weight_bytes: int
    tensor_bytes: int
    key: Key | None
    stored: EngineRecord | None
    measured: BuiltEngine | None = None

    @property
    def scratch_bytes(self) -> int | None:
        """The scratch memory that a build stated, or None."""
        if self.measured is not None:
            return self.measured.scratch_bytes
        return None if self.stored is None else self.stored.report.get("scratch_bytes")


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """All engines of a build.

    builder: the library's.
    options: the settings of every engine, the library's defaults included.
    rope: how engines compute Omni-RoPE.
    problem: why no engine can be built on this machine, or None.
    parser_problem: why the parser wasn't asked, or None.
    gpu_bytes: the GPU's free and total memory, or None without one.
    """

    builder: EngineBuilder
    precision: str
    options: EngineOptions
    rope: str
    engines: tuple[PlannedEngine, ...]
    problem: str | None
    parser_problem: str | None
    gpu_bytes: tuple[int, int] | None

    @property
    def refusals(self) -> list[tuple[str, str]]:
        """The refusals of the parser, each with its component."""
        return [(engine.graph.component, engine.refusal) for engine in self.engines if engine.refusal is not None]

    def text(self) -> str:
        """The plan as lines to print."""
        lines = [f"{self.builder.library.title}, precision {self.precision}"]
        for engine in self.engines:
            lines += _engine_lines(engine)
        weights = sum(engine.weight_bytes for engine in self.engines)
        known = [engine.scratch_bytes for engine in self.engines if engine.scratch_bytes is not None]
        scratch = f"one scratch of {max(known) / 1e9:.2f} GB" if len(known) == len(self.engines) and known else "scratch"
        lines.append(f"all engines at once: {weights / 1e9:.2f} GB of weights, and {scratch}")
        if not known:
            lines.append("the scratch memory is known after a build: `build`, or `build --dry-run --measure`")
        if self.gpu_bytes is not None:
            lines.append(f"the GPU has {self.gpu_bytes[0] / 1e9:.2f} GB free of {self.gpu_bytes[1] / 1e9:.2f} GB")
        if self.parser_problem is None and not self.refusals:
            lines.append("the library's parser takes every graph")
        if self.parser_problem is not None:
            lines.append(f"the graphs are not checked: {self.parser_problem}")
        if self.problem is not None:
            lines.append(f"nothing can be built here: {self.problem}")
        return "\n".join(lines)


def plan_engines(bundle: Bundle, options: BuildOptions, progress: Progress = no_progress) -> BuildPlan:
    """Plan a bundle's engines and have the library's parser read the graphs of those that aren't stored.

    Raises BundleError for a precision that the bundle lacks, ExportError for an unknown component, a size without a profile, or
    an option that the library doesn't have, and Cancelled where `progress` returned False.
    """
    builder = choose_builder(options.library, options.rope)
    precision = _precision(bundle, options.precision)
    rope = _rope(builder, options.rope)
    settings = builder.completed(options.engine, precision)
    machine, problem = local_machine(builder, rope)
    parser_problem = builder.parser_problem()
    engines = []
    for graph in _graphs(bundle, precision, options):
        engine = _plan_engine(bundle, graph, options, settings, rope, machine)
        if not engine.profiles:
            continue
        if engine.stored is None and parser_problem is None:
            if progress(0, 1, f"{graph.component}: checking") is False:
                raise Cancelled(f"the build was stopped while {graph.component} was checked")
            engine = replace(engine, refusal=builder.parse(engine.file, rope))
        engines.append(engine)
    return BuildPlan(
        builder=builder,
        precision=precision,
        options=settings,
        rope=rope,
        engines=tuple(engines),
        problem=problem,
        parser_problem=parser_problem,
        gpu_bytes=Device().memory_bytes() if cuda_problem() is None else None,
    )


def local_machine(builder: EngineBuilder, rope: str) -> tuple[Machine | None, str | None]:
    """The machine that an engine built here is bound to and None, or None and why no engine can be built here."""
    problem = builder.problem(rope)
    if problem is not None:
        return None, problem
    try:
        return builder.library.machine(), None
    except BackendError as error:
        return None, str(error)


def _rope(builder: EngineBuilder, rope: str) -> str:
    if rope == "auto":
        return builder.ropes[0]
    if rope not in builder.ropes:
        raise ExportError(f"rope={rope!r}: {builder.library.title} takes {' or '.join(builder.ropes)}")
    return rope


def _precision(bundle: Bundle, precision: str) -> str:
    if precision == "auto":
        return next(name for name in BEST_FIRST if name in bundle.precisions)
    if precision not in BEST_FIRST:
        raise BundleError(f"precision={precision!r} is not one of auto, {', '.join(BEST_FIRST)}")
    if precision not in bundle.precisions:
        raise BundleError(
            f"the bundle holds {', '.join(bundle.precisions)}, not {precision}: export it with --precision {precision}"
        )
    return precision


def _graphs(bundle: Bundle, precision: str, options: BuildOptions) -> list[GraphSpec]:
    graphs = [graph for graph in bundle.manifest.graphs if graph.precision == precision]
    names = [graph.component for graph in graphs]
    unknown = [name for name in options.components if name not in names]
    if unknown:
        raise ExportError(f"component {', '.join(unknown)} is unknown; the bundle has {', '.join(names)}")
    return [graph for graph in graphs if not options.components or graph.component in options.components]


def _plan_engine(
    bundle: Bundle, graph: GraphSpec, options: BuildOptions, settings: EngineOptions, rope: str, machine: Machine | None
) -> PlannedEngine:
    profiles = engine_profiles(graph, bundle.manifest, options.limits)
    key = None
    if machine is not None:
        shapes = [profile.to_json() for profile in profiles]
        key = make_key(bundle, graph, machine, rope=rope, profiles=shapes, options=settings.to_json())
    return PlannedEngine(
        graph=graph,
        file=bundle.path / (graph.inlined if rope == "native" and graph.inlined else graph.file),
        profiles=profiles,
        refusal=None,
        weight_bytes=graph.resident_bytes,
        tensor_bytes=max((tensor_bytes(graph, profile.largest_sizes) for profile in profiles), default=0),
        key=key,
        stored=None if key is None else stored_engine(bundle.path, key),
    )


def tensor_bytes(graph: GraphSpec, sizes: Mapping[str, int]) -> int:
    """Bytes of all inputs and outputs of a graph, where its dynamic sizes have these values."""
    return sum(
        DTYPES[spec.dtype].itemsize * math.prod(dim if isinstance(dim, int) else sizes[dim] for dim in spec.shape)
        for spec in (*graph.inputs.values(), *graph.outputs.values())
    )


def _engine_lines(engine: PlannedEngine) -> list[str]:
    state = "not known without the library" if engine.key is None else "reused" if engine.stored else "to build"
    return [
        f"{engine.graph.component}: {state}; {_memory_text(engine)}",
        *(f"  {profile.name}: {_profile_text(profile)}" for profile in engine.profiles),
        *([f"  refused: {engine.refusal}"] if engine.refusal is not None else []),
        *(f"  {note}" for note in (engine.measured.notes if engine.measured is not None else ())),
    ]


def _memory_text(engine: PlannedEngine) -> str:
    scratch = "" if engine.scratch_bytes is None else f" + scratch {engine.scratch_bytes / 1e6:.0f} MB"
    return f"weights {engine.weight_bytes / 1e6:.0f} MB + tensors {engine.tensor_bytes / 1e6:.0f} MB{scratch}"


def _profile_text(profile: EngineProfile) -> str:
    """Each input's shapes; inputs whose names differ only in a layer's number appear once."""
    texts = {name.rstrip("0123456789").rstrip("_"): _shapes_text(shapes) for name, shapes in profile.shapes.items()}
    return ", ".join(f"{name} {shapes}" for name, shapes in texts.items())


def _shapes_text(shapes: ShapeRange) -> str:
    smallest, typical, largest = ("×".join(map(str, shape)) for shape in shapes)
    return smallest if shapes[0] == shapes[2] else f"{smallest} / {typical} / {largest}"
