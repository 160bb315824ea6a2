"""The plan of a build: which engines a bundle needs, what TensorRT's parser would refuse, and how much memory they take.

Works without TensorRT: engines then have no keys, and the plan says why none can be built.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runtime.backends.cache_keys import Key
from ...runtime.backends.tensorrt import library as tensorrt_library
from ...runtime.backends.tensorrt.cuda import Device
from ...runtime.backends.tensorrt.engines import Machine, make_key
from ...runtime.backends.tensorrt.records import EngineRecord
from ...runtime.bundle import Bundle
from ...runtime.errors import BackendError, BundleError, ExportError
from ...runtime.manifest import GraphSpec
from .engine_store import stored_engine
from .fused_attention import lacks_fused_attention
from .graph_shapes import load_graph
from .memory_estimate import scratch_bytes, tensor_bytes
from .options import BuildOptions
from .parser_support import Finding, check_graph
from .profiles import EngineProfile, ShapeRange, engine_profiles

BEST_FIRST = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class PlannedEngine:
    """One engine of a plan.

    file: the graph file that TensorRT reads.
    findings: everything in it that the parser would refuse.
    weight_bytes: the weights on the GPU.
    tensor_bytes: all inputs and outputs at their largest shapes.
    scratch_bytes: an estimate, see memory_estimate.py.
    key: None without TensorRT.
    stored: the bundle's engine of this key, or None.
    """

    graph: GraphSpec
    file: Path
    profiles: tuple[EngineProfile, ...]
    findings: tuple[Finding, ...]
    weight_bytes: int
    tensor_bytes: int
    scratch_bytes: int
    key: Key | None
    stored: EngineRecord | None


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """All engines of a build.

    problem: why no engine can be built on this machine, or None.
    gpu_bytes: the GPU's free and total memory, or None where no engine can be built.
    """

    precision: str
    engines: tuple[PlannedEngine, ...]
    problem: str | None
    gpu_bytes: tuple[int, int] | None

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """The findings of all engines, each with its component."""
        return [(engine.graph.component, finding) for engine in self.engines for finding in engine.findings]

    def text(self) -> str:
        """The plan as lines to print."""
        lines = [f"precision {self.precision}"]
        for engine in self.engines:
            lines += _engine_lines(engine)
        weights = sum(engine.weight_bytes for engine in self.engines)
        scratch = max((engine.scratch_bytes for engine in self.engines), default=0)
        lines.append(f"all engines at once: {weights / 1e9:.2f} GB of weights, and one scratch of about {scratch / 1e9:.2f} GB")
        if self.gpu_bytes is not None:
            lines.append(f"the GPU has {self.gpu_bytes[0] / 1e9:.2f} GB free of {self.gpu_bytes[1] / 1e9:.2f} GB")
        if self.problem is not None:
            lines.append(f"nothing can be built here: {self.problem}")
        return "\n".join(lines)


def plan_engines(bundle: Bundle, options: BuildOptions) -> BuildPlan:
    """Plan a bundle's engines and check their graphs.

    Raises BundleError for a precision that the bundle lacks, ExportError for an unknown component or a size without a profile.
    """
    precision = _precision(bundle, options.precision)
    machine, problem = local_machine(options.rope)
    engines = [_plan_engine(bundle, graph, options, machine) for graph in _graphs(bundle, precision, options)]
    return BuildPlan(
        precision=precision,
        engines=tuple(engine for engine in engines if engine.profiles),
        problem=problem,
        gpu_bytes=None if machine is None else Device().memory_bytes(),
    )


def local_machine(rope: str = "plugin") -> tuple[Machine | None, str | None]:
    """This machine and None, or None and why no engine can be built here."""
    problem = tensorrt_library.build_problem(rope)
    if problem is not None:
        return None, problem
    try:
        return tensorrt_library.this_machine(), None
    except BackendError as error:
        return None, str(error)


def _precision(bundle: Bundle, precision: str) -> str:
    if precision == "auto":
        return next(name for name in BEST_FIRST if name in bundle.precisions)
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


def _plan_engine(bundle: Bundle, graph: GraphSpec, options: BuildOptions, machine: Machine | None) -> PlannedEngine:
    profiles = engine_profiles(graph, bundle.manifest, options.limits)
    file = bundle.path / (graph.inlined if options.rope == "native" and graph.inlined else graph.file)
    key = None
    if machine is not None:
        shapes = [profile.to_json() for profile in profiles]
        key = make_key(bundle, graph, machine, rope=options.rope, profiles=shapes, options=options.engine.to_json())
    return PlannedEngine(
        graph=graph,
        file=file,
        profiles=profiles,
        findings=tuple(check_graph(file, rope=options.rope)),
        weight_bytes=graph.resident_bytes,
        tensor_bytes=max((tensor_bytes(graph, profile.largest_sizes) for profile in profiles), default=0),
        scratch_bytes=_largest_scratch_bytes(file, graph.precision, options, profiles),
        key=key,
        stored=None if key is None else stored_engine(bundle.path, key),
    )


def _largest_scratch_bytes(
    file: Path, precision: str, options: BuildOptions, profiles: tuple[EngineProfile, ...]
) -> int:
    """The estimated scratch of the profile that takes the most."""
    fused = not (options.engine.decomposable_attention or lacks_fused_attention(load_graph(file), precision))
    return max((scratch_bytes(file, profile.largest_shapes, fused_attention=fused) for profile in profiles), default=0)


def _engine_lines(engine: PlannedEngine) -> list[str]:
    state = "not known without TensorRT" if engine.key is None else "reused" if engine.stored else "to build"
    return [
        f"{engine.graph.component}: {state}; {_memory_text(engine)}",
        *(f"  {profile.name}: {_profile_text(profile)}" for profile in engine.profiles),
        *(f"  refused by the parser: {finding}" for finding in engine.findings),
    ]


def _memory_text(engine: PlannedEngine) -> str:
    return (
        f"weights {engine.weight_bytes / 1e6:.0f} MB + tensors {engine.tensor_bytes / 1e6:.0f} MB"
        f" + scratch of about {engine.scratch_bytes / 1e6:.0f} MB (an estimate)"
    )


def _profile_text(profile: EngineProfile) -> str:
    """Each input's shapes; inputs whose names differ only in a layer's number appear once."""
    texts = {name.rstrip("0123456789").rstrip("_"): _shapes_text(shapes) for name, shapes in profile.shapes.items()}
    return ", ".join(f"{name} {shapes}" for name, shapes in texts.items())


def _shapes_text(shapes: ShapeRange) -> str:
    smallest, typical, largest = ("×".join(map(str, shape)) for shape in shapes)
    return smallest if shapes[0] == shapes[2] else f"{smallest} / {typical} / {largest}"
