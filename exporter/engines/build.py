"""The engines of a bundle: planned, checked, built or reused.

Knows what belongs together: graphs, profiles, the parser's table, the cache and the builder. Without TensorRT here, `--dry-run`
still plans and checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.backends.keys import Key
from ...runtime.backends.tensorrt import library as tensorrt_library
from ...runtime.backends.tensorrt.cuda import Device
from ...runtime.backends.tensorrt.engines import FOLDER, EngineRecord, Machine, engine_name, make_key, mismatches
from ...runtime.bundle import Bundle
from ...runtime.errors import BackendError, BundleError, ExportError
from ...runtime.manifest import GraphSpec
from .builder import Progress, build_engine
from .cache import build_lock, list_engines, prune, store_engine, stored_engine
from .graph_shapes import load_graph
from .memory import scratch_bytes, tensor_bytes
from .options import BuildOptions
from .parser_support import Finding, check_graph, lacks_fused_attention
from .profiles import EngineProfile, dynamic_sizes, engine_profiles

BEST_FIRST = ("bf16", "fp16", "fp32")


@dataclass(frozen=True, kw_only=True)
class PlannedEngine:
    """One engine to be. weight_bytes, tensor_bytes: on the GPU, weights and all inputs and outputs of the largest shapes.

    scratch_bytes: an estimate, see memory.py. key: None where there is no TensorRT to build with.
    """

    graph: GraphSpec
    file: Path
    profiles: tuple[EngineProfile, ...]
    findings: tuple[Finding, ...]
    weight_bytes: int
    tensor_bytes: int
    scratch_bytes: int
    key: Key | None
    reused: EngineRecord | None


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was planned, built and reused. problem: why nothing can be built here, or None.

    gpu_bytes: free memory and all memory of the GPU, where there is one.
    """

    precision: str
    planned: tuple[PlannedEngine, ...]
    built: tuple[EngineRecord, ...]
    reused: tuple[EngineRecord, ...]
    problem: str | None
    gpu_bytes: tuple[int, int] | None = None

    @property
    def findings(self) -> list[tuple[str, Finding]]:
        """What TensorRT's parser would refuse, with the component."""
        return [(planned.graph.component, found) for planned in self.planned for found in planned.findings]

    def plan_text(self) -> str:
        """The plan for people."""
        lines = [f"precision {self.precision}"]
        for planned in self.planned:
            state = "not known without TensorRT" if planned.key is None else "reused" if planned.reused else "to build"
            lines.append(f"{planned.graph.component}: {state}; {_memory_text(planned)}")
            lines += [f"  {profile.name}: {_profile_text(profile)}" for profile in planned.profiles]
            lines += [f"  refused by the parser: {found}" for found in planned.findings]
        weights = sum(planned.weight_bytes for planned in self.planned)
        scratch = max((planned.scratch_bytes for planned in self.planned), default=0)
        lines.append(f"all engines at once: {weights / 1e9:.2f} GB of weights, and one scratch of about {scratch / 1e9:.2f} GB")
        if self.gpu_bytes is not None:
            lines.append(f"the GPU has {self.gpu_bytes[0] / 1e9:.2f} GB free of {self.gpu_bytes[1] / 1e9:.2f} GB")
        return "\n".join([*lines, *([f"nothing can be built here: {self.problem}"] if self.problem else [])])


def build_engines(
    bundle: str | Path, options: BuildOptions, progress: Progress = lambda what, done, total: None
) -> BuildReport:
    """Plan, check and (unless dry_run) build a bundle's engines; those built from the same things before are reused.

    Raises BundleError, ExportError (a graph that the parser would refuse, no TensorRT here, a build that fails) and Cancelled.
    """
    opened = Bundle.open(bundle)
    precision = _precision(opened, options.precision)
    machine, problem = _machine(options.rope)
    planned = [_plan(opened, graph, options, machine) for graph in _graphs(opened, precision, options)]
    planned = [plan for plan in planned if plan.profiles]
    report = BuildReport(precision=precision, planned=tuple(planned), built=(), reused=(), problem=problem)
    if options.dry_run:
        reused = tuple(plan.reused for plan in planned if plan.reused)
        gpu = None if machine is None else _gpu_bytes()
        return BuildReport(
            precision=precision, planned=tuple(planned), built=(), reused=reused, problem=problem, gpu_bytes=gpu
        )
    if report.findings:
        told = "; ".join(f"{component}: {found}" for component, found in report.findings[:5])
        raise ExportError(f"TensorRT's parser would refuse {len(report.findings)} nodes: {told}")
    if problem is not None:
        raise ExportError(f"no engine can be built here: {problem}")
    built: list[EngineRecord] = []
    reused_now: list[EngineRecord] = []
    for index, plan in enumerate(planned):
        progress(plan.graph.component, index, len(planned))
        record, fresh = _build_or_reuse(opened, plan, options, _within(progress, plan.graph.component))
        (built if fresh else reused_now).append(record)
    return BuildReport(
        precision=precision, planned=tuple(planned), built=tuple(built), reused=tuple(reused_now), problem=None
    )


def _machine(rope: str = "plugin") -> tuple[Machine | None, str | None]:
    """What engines built here are bound to, or None and why none can be built."""
    reason = tensorrt_library.build_problem(rope)
    if reason is not None:
        return None, reason
    try:
        return tensorrt_library.this_machine(), None
    except BackendError as error:
        return None, str(error)


def _gpu_bytes() -> tuple[int, int]:
    return Device().memory_bytes()


def _precision(bundle: Bundle, wanted: str) -> str:
    if wanted == "auto":
        return next(precision for precision in BEST_FIRST if precision in bundle.precisions)
    if wanted not in bundle.precisions:
        raise BundleError(
            f"the bundle holds {', '.join(bundle.precisions)}, not {wanted}: export it with --precision {wanted}"
        )
    return wanted


def _graphs(bundle: Bundle, precision: str, options: BuildOptions) -> list[GraphSpec]:
    graphs = [graph for graph in bundle.manifest.graphs if graph.precision == precision]
    names = [graph.component for graph in graphs]
    unknown = [name for name in options.components if name not in names]
    if unknown:
        raise ExportError(f"component {', '.join(unknown)} is unknown; the bundle has {', '.join(names)}")
    return [graph for graph in graphs if not options.components or graph.component in options.components]


def _plan(bundle: Bundle, graph: GraphSpec, options: BuildOptions, machine: Machine | None) -> PlannedEngine:
    profiles = engine_profiles(graph, bundle.manifest, options.limits)
    usual = {name: ends[2] for name, ends in dynamic_sizes(bundle.manifest, options.limits).items()}
    sizes = [_largest_sizes(graph, profile, usual) for profile in profiles]
    native = options.rope == "native" and graph.inlined is not None
    file = bundle.path / (graph.inlined if native and graph.inlined else graph.file)
    key = None
    if machine is not None:
        told = [profile.to_json() for profile in profiles]
        key = make_key(bundle, graph, machine, rope=options.rope, profiles=told, options=options.engine.to_json())
    return PlannedEngine(
        graph=graph,
        file=file,
        profiles=profiles,
        findings=tuple(check_graph(file, rope=options.rope)),
        weight_bytes=graph.resident_bytes,
        tensor_bytes=max((tensor_bytes(graph, largest) for largest in sizes), default=0),
        scratch_bytes=_scratch(file, graph.precision, options, profiles),
        key=key,
        reused=None if key is None else stored_engine(bundle.path, key),
    )


def _scratch(file: Path, precision: str, options: BuildOptions, profiles: tuple[EngineProfile, ...]) -> int:
    """The estimated scratch of the profile that wants the most."""
    fused = not (options.engine.decomposable_attention or lacks_fused_attention(load_graph(file), precision))
    largest = [{name: given[2] for name, given in profile.shapes.items()} for profile in profiles]
    return max((scratch_bytes(file, inputs, fused_attention=fused) for inputs in largest), default=0)


def _largest_sizes(graph: GraphSpec, profile: EngineProfile, usual: dict[str, int]) -> dict[str, int]:
    """The value of each dynamic size at the profile's largest shapes; `usual` for those that only outputs have."""
    given = {
        dim: size
        for name, spec in graph.inputs.items()
        for dim, size in zip(spec.shape, profile.shapes[name][2], strict=True)
        if isinstance(dim, str)
    }
    return {**usual, **given}


def _build_or_reuse(
    bundle: Bundle, plan: PlannedEngine, options: BuildOptions, progress: Progress
) -> tuple[EngineRecord, bool]:
    assert plan.key is not None, "planned with TensorRT"
    with build_lock(bundle.path, engine_name(plan.key), lambda: progress("waiting for another builder", 0, 1)):
        stored = stored_engine(bundle.path, plan.key)  # another builder may have been faster
        if stored is not None:
            return stored, False
        engine = build_engine(
            plan.file,
            plan.graph.precision,
            plan.profiles,
            options.engine,
            rope=options.rope,
            timing_cache=_timing_cache(bundle, plan.key),
            progress=progress,
        )
        report = {"attention": engine.attention, "seconds": round(engine.seconds, 1), "notes": list(engine.notes)}
        return store_engine(bundle.path, plan.key, engine.plan, report), True


def _timing_cache(bundle: Bundle, key: Key) -> Path:
    """Where measured tactics are kept: they hold for one TensorRT on one GPU."""
    gpu = "".join(letter if letter.isalnum() else "-" for letter in key["gpu"])
    return bundle.path / FOLDER / f"timing-{key['tensorrt']}-{gpu}.cache"


def _within(progress: Progress, component: str) -> Progress:
    return lambda what, done, total: progress(f"{component}: {what}", done, total)


def prune_engines(bundle: str | Path) -> tuple[list[str], int]:
    """Remove engines that can't run here any more, and leftovers. Gives the files and their bytes.

    Without TensorRT here only damaged ones and leftovers go, because who knows which machine the others are for.
    """
    opened = Bundle.open(bundle)
    machine, _ = _machine()

    def keep(record: EngineRecord) -> bool:
        if machine is None:
            return True
        try:
            graph = opened.graph(record.key["component"], record.key["precision"])
        except BundleError:
            return False
        return not mismatches(record, opened, graph, machine)

    return prune(opened.path, keep)


def engine_list(bundle: str | Path) -> list[str]:
    """The bundle's engines for people, newest first."""
    return [_engine_line(record, damage) for record, damage in list_engines(Bundle.open(bundle).path)]


def _engine_line(record: EngineRecord, damage: str | None) -> str:
    key = record.key
    made_for = f"TensorRT {key['tensorrt']}, {key['gpu']} ({key['compute_capability']}), driver {key['driver']}"
    notes = "".join(f"; {note}" for note in record.report.get("notes", ()))
    return (
        f"{record.name}: {record.size_bytes / 1e6:.1f} MB, {made_for}{notes}{f'; DAMAGED: {damage}' if damage else ''}"
    )


def _memory_text(planned: PlannedEngine) -> str:
    return (
        f"weights {planned.weight_bytes / 1e6:.0f} MB + tensors {planned.tensor_bytes / 1e6:.0f} MB"
        f" + scratch of about {planned.scratch_bytes / 1e6:.0f} MB (an estimate)"
    )


def _profile_text(profile: EngineProfile) -> str:
    """Each input's shapes; inputs that differ only in a layer's number are told once."""
    told = {name.rstrip("0123456789").rstrip("_"): _shape_range(given) for name, given in profile.shapes.items()}
    return ", ".join(f"{name} {shapes}" for name, shapes in told.items())


def _shape_range(given: Any) -> str:
    return (
        " / ".join("×".join(map(str, shape)) for shape in given)
        if given[0] != given[2]
        else "×".join(map(str, given[0]))
    )
