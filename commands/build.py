"""`omnigen2 build`: TensorRT engines of a bundle. All work is done in `exporter/engines/`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..exporter.engines.options import BuildOptions, EngineOptions, Limits
from .options import needs_extra


def build(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    component: Annotated[list[str] | None, typer.Option(help="Only this component; may be repeated.")] = None,
    max_size: Annotated[int, typer.Option(help="Longest side of a picture, in pixels.")] = Limits.max_size_px,
    typical_size: Annotated[int, typer.Option(help="The side to be fastest at.")] = Limits.typical_size_px,
    max_references: Annotated[int, typer.Option(help="Input images of a drawing.")] = Limits.max_references,
    max_images: Annotated[int, typer.Option(help="Pictures drawn together.")] = Limits.max_images,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longest prompt.")] = Limits.max_prompt_tokens,
    rope: Annotated[str, typer.Option(help="plugin (our kernel) or native (TensorRT's layers).")] = BuildOptions.rope,
    optimization_level: Annotated[
        int, typer.Option(help="0 to 5; higher builds longer.")
    ] = EngineOptions.optimization_level,
    workspace: Annotated[int | None, typer.Option(help="Megabytes of scratch a layer may want.")] = None,
    weight_streaming: Annotated[bool, typer.Option(help="Weights may stay in host memory.")] = False,
    strip_plan: Annotated[bool, typer.Option(help="Keep weights out of the engine files.")] = False,
    version_compatible: Annotated[bool, typer.Option(help="For other TensorRT of this major version.")] = False,
    hardware_compatibility: Annotated[
        str, typer.Option(help="none, ampere_plus or same_compute_capability.")
    ] = EngineOptions.hardware_compatibility,
    dry_run: Annotated[bool, typer.Option(help="Only print the plan and what the parser would refuse.")] = False,
    list_built: Annotated[bool, typer.Option("--list", help="List the engines.")] = False,
    prune_old: Annotated[bool, typer.Option("--prune", help="Remove engines that can't run here any more.")] = False,
) -> None:
    """Build a bundle's TensorRT engines; those already built from the same things are reused."""
    needs_extra("export", "onnx")
    from ..exporter.engines.build import build_engines, engine_list, prune_engines

    if list_built:
        typer.echo("\n".join(engine_list(bundle)) or "no engines")
        return
    if prune_old:
        removed, freed = prune_engines(bundle)
        typer.echo(f"removed {len(removed)} files, {freed / 1e6:.1f} MB")
        return
    options = BuildOptions(
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
        ),
        rope=rope,
        dry_run=dry_run,
    )
    shown: set[str] = set()

    def progress(what: str, done: int, total: int) -> None:
        if what not in shown:
            shown.add(what)
            typer.echo(what, err=True)

    report = build_engines(bundle, options, progress)
    if dry_run:
        typer.echo(report.plan_text())
        return
    typer.echo(f"{len(report.built)} engines built, {len(report.reused)} reused")
    for record in report.built:
        notes = "".join(f"; {note}" for note in record.report["notes"])
        typer.echo(f"{record.name}: {record.size_bytes / 1e6:.1f} MB in {record.report['seconds']} s{notes}")
