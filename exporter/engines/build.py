"""Builds a bundle's engines or reuses stored ones, lists them and prunes them.

Joins the plan, the builder and the cache. Without either library, a dry run still plans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.backends.cache_keys import Key
from ...runtime.backends.tensorrt.engines import mismatches
from ...runtime.backends.tensorrt.records import EngineRecord, engine_name, read_records
from ...runtime.bundle import Bundle
from ...runtime.errors import BundleError, Cancelled, ExportError
from ...runtime.files.user_cache import UserCache, user_cache
from ...runtime.progress import Progress, no_progress
from .builders import BUILDERS
from .callbacks import PlanFile
from .engine_builder import BuiltEngine
from .engine_store import NewPlan, build_lock, list_engines, prune, store_engine, stored_engine, trust
from .options import BuildOptions
from .plan import BuildPlan, PlannedEngine, local_machine, plan_engines


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The plan, the engines that were built and the stored ones that were reused."""

    plan: BuildPlan
    built: tuple[EngineRecord, ...]
    reused: tuple[EngineRecord, ...]


def build_engines(bundle: str | Path, options: BuildOptions, progress: Progress = no_progress) -> BuildReport:
    """Plan, check and (unless dry_run) build a bundle's engines; stored engines of the same key are reused.

    Raises BundleError, ExportError (a graph that the parser refuses, no library here, a build that fails) and Cancelled
    (`progress` returned False).
    """
    opened = Bundle.open(bundle)
    plan = plan_engines(opened, options, progress)
    reused = tuple(engine.stored for engine in plan.engines if engine.stored is not None)
    if options.dry_run:
        plan = _measured(plan, progress) if options.measure else plan
        return BuildReport(plan=plan, built=(), reused=reused)
    _check_plan(plan)
    built, kept = _build_all(opened, plan, progress)
    return BuildReport(plan=plan, built=tuple(built), reused=tuple(kept))


def _check_plan(plan: BuildPlan) -> None:
    if plan.problem is not None:
        raise ExportError(f"no engine can be built here: {plan.problem}")
    for component, refusal in plan.refusals:
        raise ExportError(f"{component}: {refusal}")


def _measured(plan: BuildPlan, progress: Progress) -> BuildPlan:
    """The plan with the figures of a build of each engine that isn't stored and that the parser takes. Keeps no engine."""
    if plan.problem is not None:
        raise ExportError(f"nothing can be measured here: {plan.problem}")
    engines = []
    for engine in plan.engines:
        if engine.stored is None and engine.refusal is None:
            try:
                built = _build(plan, engine, _Nowhere(), _with_component(progress, engine.graph.component))
                engine = replace(engine, measured=built)
            except ExportError as error:
                engine = replace(engine, refusal=str(error))
        engines.append(engine)
    return replace(plan, engines=tuple(engines))


class _Nowhere:
    """Forgets an engine's bytes."""

    def write(self, data: bytes) -> None:
        pass

    def restart(self) -> None:
        pass


def _build(plan: BuildPlan, engine: PlannedEngine, file: PlanFile, progress: Progress) -> BuiltEngine:
    timings = None if engine.key is None else _timing_cache(user_cache(), engine.key)
    try:
        return plan.builder.build(
            engine.file, engine.profiles, plan.options, file, rope=plan.rope, timings=timings, progress=progress
        )
    except ExportError as error:
        raise ExportError(f"{engine.graph.component}: {error}") from error


def _build_all(bundle: Bundle, plan: BuildPlan, progress: Progress) -> tuple[list[EngineRecord], list[EngineRecord]]:
    """The records of the engines built, and of those reused."""
    built: list[EngineRecord] = []
    reused: list[EngineRecord] = []
    for done, engine in enumerate(plan.engines):
        component = engine.graph.component
        if progress(done, len(plan.engines), component) is False:
            raise Cancelled(f"the build was stopped before {component}")
        record, is_new = _build_or_reuse(bundle, plan, engine, _with_component(progress, component))
        (built if is_new else reused).append(record)
    return built, reused


def _build_or_reuse(
    bundle: Bundle, plan: BuildPlan, planned: PlannedEngine, progress: Progress
) -> tuple[EngineRecord, bool]:
    """The engine's record, and whether it was built now."""
    if planned.stored is not None:  # its plan was hashed when it was planned
        return planned.stored, False
    assert planned.key is not None, "planned with the library"
    with build_lock(bundle.path, engine_name(planned.key), lambda: progress(0, 1, "waiting for another builder")):
        stored = stored_engine(bundle.path, planned.key)  # another builder may have stored it meanwhile
        if stored is not None:
            return stored, False

        def build(file: NewPlan) -> dict[str, Any]:
            engine = _build(plan, planned, file, progress)
            return {
                "attention": engine.attention,
                "seconds": round(engine.seconds, 1),
                "scratch_bytes": engine.scratch_bytes,
                "weight_bytes": engine.weight_bytes,
                "notes": [*engine.notes, *_cache_notes(user_cache())],
            }

        return store_engine(bundle.path, planned.key, build), True


def _timing_cache(cache: UserCache, key: Key) -> Path | None:
    """The file of measured tactics, which hold for one TensorRT on one GPU, or None where nothing can be kept.

    It is the user's: TensorRT would trust one that came with a bundle.
    """
    if key["gpu"] is None:
        return None
    gpu = "".join(letter if letter.isalnum() else "-" for letter in key["gpu"])
    return None if cache.problem is not None else cache.folder / f"timing-{key['tensorrt']}-{gpu}.cache"


def _cache_notes(cache: UserCache) -> list[str]:
    return [] if cache.problem is None else [f"the engine runs only with trust_engines=True, because {cache.problem}"]


def _with_component(progress: Progress, component: str) -> Progress:
    return lambda done, total, what: progress(done, total, f"{component}: {what}")


def prune_engines(bundle: str | Path) -> tuple[list[str], int]:
    """Remove leftovers, damaged engines and those that can't run here. Returns the files' names and their bytes.

    Of a library that isn't here only leftovers and damaged engines go: the others may be for another machine.
    """
    opened = Bundle.open(bundle)
    machines = {name: local_machine(builder, "native")[0] for name, builder in BUILDERS.items()}

    def keep(record: EngineRecord) -> bool:
        machine = machines[record.key["library"]]
        if machine is None:
            return True
        try:
            graph = opened.graph(record.key["component"], record.key["precision"])
        except BundleError:
            return False
        return not mismatches(record, opened, graph, machine)

    return prune(opened.path, keep)


def trust_engines(bundle: str | Path) -> list[str]:
    """Let the bundle's engines run that were built elsewhere. An engine is a program: only for those of somebody who is trusted.

    Returns the names of those that couldn't run before. Raises BundleError, BackendError or ExportError.
    """
    if (problem := user_cache().problem) is not None:
        raise ExportError(f"trust can't be kept: {problem}")
    return trust(Bundle.open(bundle).path)


def engine_list(bundle: str | Path) -> list[str]:
    """The bundle's engines, a line each, newest first, then the files that look like records and are none."""
    folder = Bundle.open(bundle).path
    lines = [_engine_line(record, damage) for record, damage in list_engines(folder)]
    return lines + [f"not used: {problem}" for problem in read_records(folder)[1]]


def _engine_line(record: EngineRecord, damage: str | None) -> str:
    key = record.key
    gpu = f"{key['gpu']} ({key['compute_capability']}), driver {key['driver']}"
    facts = [
        f"{record.size_bytes / 1e6:.1f} MB, {key['library']} {key['tensorrt']}, {key['options']['target'] or gpu}",
        *record.report.get("notes", ()),
        *([] if record.is_own() else ["built elsewhere: does not run here without --trust"]),
        *([f"DAMAGED: {damage}"] if damage else []),
    ]
    return f"{record.name}: {'; '.join(facts)}"
