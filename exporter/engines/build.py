"""Builds a bundle's engines or reuses stored ones, lists them and prunes them.

Joins the plan, the builder and the cache. Without TensorRT, a dry run still plans and checks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...runtime.backends.cache_keys import Key
from ...runtime.backends.tensorrt.engines import mismatches
from ...runtime.backends.tensorrt.records import EngineRecord, engine_name, read_records
from ...runtime.bundle import Bundle
from ...runtime.errors import BundleError, Cancelled, ExportError
from ...runtime.files.user_cache import UserCache, user_cache
from ...runtime.progress import Progress, no_progress
from .engine_store import build_lock, list_engines, prune, store_engine, stored_engine, trust
from .options import BuildOptions
from .plan import BuildPlan, PlannedEngine, local_machine, plan_engines
from .tensorrt_builder import build_engine


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """The plan, the engines that were built and the stored ones that were reused."""

    plan: BuildPlan
    built: tuple[EngineRecord, ...]
    reused: tuple[EngineRecord, ...]


def build_engines(bundle: str | Path, options: BuildOptions, progress: Progress = no_progress) -> BuildReport:
    """Plan, check and (unless dry_run) build a bundle's engines; stored engines of the same key are reused.

    Raises BundleError, ExportError (a graph that the parser would refuse, no TensorRT here, a build that fails) and
    Cancelled (`progress` returned False).
    """
    opened = Bundle.open(bundle)
    plan = plan_engines(opened, options)
    built: list[EngineRecord] = []
    reused = [engine.stored for engine in plan.engines if engine.stored is not None]
    if not options.dry_run:
        _check_plan(plan)
        built, reused = _build_all(opened, plan, options, progress)
    return BuildReport(plan=plan, built=tuple(built), reused=tuple(reused))


def _check_plan(plan: BuildPlan) -> None:
    if plan.findings:
        findings = "; ".join(f"{component}: {finding}" for component, finding in plan.findings[:5])
        raise ExportError(f"TensorRT's parser would refuse {len(plan.findings)} nodes: {findings}")
    if plan.problem is not None:
        raise ExportError(f"no engine can be built here: {plan.problem}")


def _build_all(
    bundle: Bundle, plan: BuildPlan, options: BuildOptions, progress: Progress
) -> tuple[list[EngineRecord], list[EngineRecord]]:
    """The records of the engines built, and of those reused."""
    built: list[EngineRecord] = []
    reused: list[EngineRecord] = []
    for done, engine in enumerate(plan.engines):
        component = engine.graph.component
        if progress(done, len(plan.engines), component) is False:
            raise Cancelled(f"the build was stopped before {component}")
        record, is_new = _build_or_reuse(bundle, engine, options, _with_component(progress, component))
        (built if is_new else reused).append(record)
    return built, reused


def _build_or_reuse(
    bundle: Bundle, planned: PlannedEngine, options: BuildOptions, progress: Progress
) -> tuple[EngineRecord, bool]:
    """The engine's record, and whether it was built now."""
    assert planned.key is not None, "planned with TensorRT"
    with build_lock(bundle.path, engine_name(planned.key), lambda: progress(0, 1, "waiting for another builder")):
        stored = stored_engine(bundle.path, planned.key)  # another builder may have stored it meanwhile
        if stored is not None:
            return stored, False
        engine = build_engine(
            planned.file,
            planned.graph.precision,
            planned.profiles,
            options.engine,
            rope=options.rope,
            timing_cache=_timing_cache(user_cache(), planned.key),
            progress=progress,
        )
        notes = [*engine.notes, *_cache_notes(user_cache())]
        report = {"attention": engine.attention, "seconds": round(engine.seconds, 1), "notes": notes}
        return store_engine(bundle.path, planned.key, engine.plan, report), True


def _timing_cache(cache: UserCache, key: Key) -> Path | None:
    """The file of measured tactics, which hold for one TensorRT on one GPU, or None where nothing can be kept.

    It is the user's: TensorRT would trust one that came with a bundle.
    """
    gpu = "".join(letter if letter.isalnum() else "-" for letter in key["gpu"])
    return None if cache.problem is not None else cache.folder / f"timing-{key['tensorrt']}-{gpu}.cache"


def _cache_notes(cache: UserCache) -> list[str]:
    return [] if cache.problem is None else [f"the engine runs only with trust_engines=True, because {cache.problem}"]


def _with_component(progress: Progress, component: str) -> Progress:
    return lambda done, total, what: progress(done, total, f"{component}: {what}")


def prune_engines(bundle: str | Path) -> tuple[list[str], int]:
    """Remove leftovers, damaged engines and those that can't run here. Returns the files' names and their bytes.

    Without TensorRT only leftovers and damaged engines go: the others may be for another machine.
    """
    opened = Bundle.open(bundle)
    machine, _ = local_machine()

    def keep(record: EngineRecord) -> bool:
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
    facts = [
        f"{record.size_bytes / 1e6:.1f} MB, TensorRT {key['tensorrt']}, {key['gpu']} ({key['compute_capability']}), "
        f"driver {key['driver']}",
        *record.report.get("notes", ()),
        *([] if record.is_own() else ["built elsewhere: does not run here without --trust"]),
        *([f"DAMAGED: {damage}"] if damage else []),
    ]
    return f"{record.name}: {'; '.join(facts)}"
