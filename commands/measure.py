"""`omnigen2 compare` and `bench`: how close to the reference, and how fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..runtime.errors import OmniGen2Error
from .option_values import cache_policy
from .options import (
    DEFAULTS,
    Backend,
    JsonFile,
    MemoryLimit,
    Precision,
    Threads,
    needs_extra,
    open_pipeline,
)
from .terminal import ProgressLine, check_json_file, say_lines, write_json


def compare(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint that the bundle was exported from.")],
    bundle: Annotated[str, typer.Argument(help="The bundle's folder, or nano.")],
    backend: Backend = "auto",
    precision: Precision = "auto",
    steps: Annotated[int, typer.Option(help="Steps of the compared drawings.")] = 4,
    size: Annotated[int, typer.Option(help="Height and width of the compared drawings, in pixels.")] = 64,
    json_file: JsonFile = None,
) -> None:
    """Compare each component and whole drawings with the PyTorch reference. The exit code is 1 beyond tolerance."""
    needs_extra("export", "torch", "onnx", "onnxscript", "safetensors")
    check_json_file(json_file)
    from ..exporter.verify.compare import compare as run_comparison
    from ..runtime.pipeline import bundle_path

    bar = ProgressLine()
    report = run_comparison(
        checkpoint,
        bundle_path(bundle),
        backend=backend,
        precision=precision,
        steps=steps,
        height_px=size,
        width_px=size,
        progress=bar.show,
    )
    bar.end()
    say_lines(report.table())
    write_json(json_file, json.loads(report.to_json()))
    if not report.within_tolerance:
        raise typer.Exit(1)


def bench(
    bundle: Annotated[str, typer.Argument(help="The bundle's folder, or nano.")],
    size: Annotated[int, typer.Option(help="Height and width of picture and references, in pixels.")] = 1024,
    steps: Annotated[int, typer.Option(help="Steps a drawing.")] = DEFAULTS["steps"],
    repeat: Annotated[int, typer.Option(help="Drawings a case; the median is shown.")] = 1,
    references: Annotated[int | None, typer.Option(help="Measure up to this many input images; 3 by default.")] = None,
    cache: Annotated[str | None, typer.Option(help="teacache or taylorseer.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    every: Annotated[bool, typer.Option("--all", help="Instead: one picture in every way that works here.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Measure the original's efficiency table: 0 to 3 input images, guidance throughout or on the first 60 %."""
    from .bench import measure, opened_line, table, to_json

    check_json_file(json_file)
    if every:
        if backend != "auto" or precision != "auto" or (cache, memory_limit, references) != (None, None, None):
            raise OmniGen2Error(
                "--all takes every backend, precision and cache: leave those options, --memory-limit and --references out"
            )
        _bench_ways(bundle, size, steps, repeat, threads, json_file)
        return
    policy = cache_policy(cache, None)
    with open_pipeline(bundle, backend, precision, threads, memory_limit) as pipeline:
        bar = ProgressLine()
        cases = measure(
            pipeline,
            size_px=size,
            steps=steps,
            repeat=repeat,
            references=3 if references is None else references,
            cache=policy,
            progress=bar.show,
        )
        bar.end()
        say_lines(table(cases))
        say_lines(opened_line(pipeline))
        write_json(json_file, to_json(pipeline, cases))


def _bench_ways(bundle: str, size: int, steps: int, repeat: int, threads: int | None, json_file: Path | None) -> None:
    """Run `bench --all`. Pictures of nano, as it is or quantized, are judged as well."""
    from ..nano.evaluation import scoring_for
    from ..runtime.bundle import Bundle
    from ..runtime.pipeline import bundle_path
    from .bench_all import measure_ways, ways_json, ways_table

    bar = ProgressLine()
    measured = measure_ways(
        bundle,
        size_px=size,
        steps=steps,
        repeat=repeat,
        threads=threads,
        score=scoring_for(Bundle.open(bundle_path(bundle))),
        progress=bar.show,
    )
    bar.end()
    say_lines(ways_table(measured))
    write_json(json_file, ways_json(bundle, measured))
