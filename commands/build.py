"""`omnigen2 build`: engines of a bundle. Only the command's interface; `exporter/engines/` does the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..exporter.engines.options import BuildOptions, EngineOptions, Limits
from ..runtime.backends.tensorrt.records import TARGETS
from ..runtime.errors import RequestError
from ..runtime.progress import Progress
from .terminal import printable, say_lines

if TYPE_CHECKING:
    from ..exporter.engines.build import BuildReport


def build(
    bundle: Annotated[str, typer.Argument(help="The bundle's folder, or nano.")],
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    component: Annotated[list[str] | None, typer.Option(help="Only this component; repeat for several.")] = None,
    max_size: Annotated[int, typer.Option(help="Longest side of an image, in pixels.")] = Limits.max_size_px,
    typical_size: Annotated[int, typer.Option(help="The side that engines are tuned for, in pixels.")] = Limits.typical_size_px,
    max_references: Annotated[int, typer.Option(help="Most reference images of a request.")] = Limits.max_references,
    max_images: Annotated[int, typer.Option(help="Most images generated in a batch.")] = Limits.max_images,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longest prompt, in tokens.")] = Limits.max_prompt_tokens,
    library: Annotated[str, typer.Option(help="tensorrt, tensorrt-rtx, or auto: the one that builds here.")] = "auto",
    target: Annotated[
        str | None,
        typer.Option(help=f"GPUs that TensorRT for RTX builds for: {', '.join(TARGETS)}.", show_default="portable"),
    ] = None,
    rope: Annotated[str, typer.Option(help="plugin (our kernel), native (the library's layers) or auto.")] = BuildOptions.rope,
    optimization_level: Annotated[
        int, typer.Option(help="0 to 5; a higher level builds longer.")
    ] = EngineOptions.optimization_level,
    workspace: Annotated[int | None, typer.Option(help="Megabytes of scratch that a layer may use.")] = None,
    weight_streaming: Annotated[bool, typer.Option(help="Weights may stay in host memory.")] = False,
    strip_plan: Annotated[bool, typer.Option(help="Keep weights out of the engine files.")] = False,
    version_compatible: Annotated[bool, typer.Option(help="Also run on other TensorRT versions of this major version.")] = False,
    hardware_compatibility: Annotated[
        str, typer.Option(help="none, ampere_plus or same_compute_capability.")
    ] = EngineOptions.hardware_compatibility,
    dry_run: Annotated[bool, typer.Option(help="Only print the plan, and what the library's parser refuses.")] = False,
    measure: Annotated[bool, typer.Option(help="With --dry-run: build, print memory, keep nothing.")] = False,
    list_built: Annotated[bool, typer.Option("--list", help="List the stored engines.")] = False,
    prune_old: Annotated[bool, typer.Option("--prune", help="Remove engines that can't run here.")] = False,
    trust_built: Annotated[
        bool, typer.Option("--trust", help="Let engines that were built elsewhere run; an engine is a program.")
    ] = False,
) -> None:
    """Build a bundle's engines with TensorRT or TensorRT for RTX. Those stored for the same graph and options are reused."""
    from ..exporter.engines.build import build_engines, engine_list, prune_engines, trust_engines
    from ..runtime.pipeline import bundle_path

    chosen = [name for name, given in _ways(list_built, prune_old, trust_built, dry_run).items() if given]
    if len(chosen) > 1:
        raise RequestError(f"{' and '.join(chosen)} don't go together: give one")
    folder = bundle_path(bundle)
    if list_built:
        say_lines("\n".join(engine_list(folder)) or "no engines")
        return
    if trust_built:
        names = trust_engines(folder)
        typer.echo("\n".join(f"{name} may run now" for name in names) or "no engine that was built elsewhere")
        return
    if prune_old:
        removed, freed = prune_engines(folder)
        typer.echo(f"removed {len(removed)} files, {freed / 1e6:.1f} MB")
        return
    options = BuildOptions(
        library=library,
        precision=precision,
        components=tuple(component or ()),
        limits=Limits(
            max_size_px=max_size,
            typical_size_px=min(typical_size, max_size),
            max_references=max_references,
            max_images=max_images,
            max_prompt_tokens=max_prompt_tokens,
        ),
        engine=EngineOptions(
            optimization_level=optimization_level,
            workspace_bytes=None if workspace is None else workspace * 10**6,
            weight_streaming=weight_streaming,
            strip_plan=strip_plan,
            version_compatible=version_compatible,
            hardware_compatibility=hardware_compatibility,
            target=target,
        ),
        rope=rope,
        dry_run=dry_run,
        measure=measure,
    )
    report = build_engines(folder, options, _phase_printer())
    if dry_run:
        say_lines(report.plan.text())
    else:
        _print_result(report)


def _ways(list_built: bool, prune_old: bool, trust_built: bool, dry_run: bool) -> dict[str, bool]:
    """The options that replace building, each with whether it was given."""
    return {"--list": list_built, "--prune": prune_old, "--trust": trust_built, "--dry-run": dry_run}


def _phase_printer() -> Progress:
    """A progress callback that prints each phase once, to stderr."""
    printed: set[str] = set()

    def show(done: int, total: int, what: str) -> None:
        if what not in printed:
            printed.add(what)
            typer.echo(printable(what), err=True)

    return show


def _print_result(report: BuildReport) -> None:
    typer.echo(f"{len(report.built)} engines built, {len(report.reused)} reused")
    for record in report.built:
        notes = "".join(f"; {note}" for note in record.report["notes"])
        say_lines(f"{record.name}: {record.size_bytes / 1e6:.1f} MB in {record.report['seconds']} s{notes}")
