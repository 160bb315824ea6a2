"""`omnigen2 reflect`: a picture that is judged and corrected, and records of that for training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime.chat.reflection import MAX_ROUNDS
from ..runtime.checks import check_integer
from ..runtime.parameters import drawing_parameters
from ..runtime.request import Request
from .option_values import picture_names
from .options import (
    DEFAULTS,
    AsJson,
    Backend,
    BundleName,
    Height,
    LoraFolder,
    Loras,
    MemoryLimit,
    Precision,
    Threads,
    Width,
    open_pipeline,
)
from .terminal import ProgressLine, show

BUNDLE_JUDGE = "bundle"
"""The name of the bundle's own language model as a judge, in records."""


def reflect(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    bundle: BundleName = "nano",
    rounds: Annotated[int, typer.Option(help="Corrections at most.")] = 2,
    height: Height = None,
    width: Width = None,
    steps: Annotated[int, typer.Option(help="Model evaluations for a picture.")] = DEFAULTS["steps"],
    seed: Annotated[int, typer.Option(help="Where the noise comes from.")] = DEFAULTS["seed"],
    out: Annotated[Path, typer.Option(help="The best picture's file; the rounds and a sheet lie beside it.")] = Path("out.png"),
    record: Annotated[
        Path | None, typer.Option(help="Append every round to this .jsonl file, as training data; pictures lie beside it.")
    ] = None,
    as_json: AsJson = False,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    lora: Loras = None,
    lora_dir: LoraFolder = None,
) -> None:
    """Draw, look at the picture, correct it, and keep the best."""
    from ..pairs.reflection_records import ReflectionRecords
    from .terminal_chat import files_beside, rounds_as_json, save_rounds, step_progress

    request = Request(prompt=prompt, height_px=height, width_px=width, steps=steps, seed=seed)
    check_integer("rounds", rounds, 1, "the fewest", MAX_ROUNDS)
    picture_names(out, 1)
    for file in files_beside(out, rounds + 1):
        picture_names(file, 1)
    records = None if record is None else ReflectionRecords(path=record)
    if records is not None:
        records.begin()
    with open_pipeline(bundle, backend, precision, threads, memory_limit, lora, lora_dir) as pipeline:
        bar = ProgressLine()
        reflection = pipeline.reflect(request, rounds, on_step=step_progress(bar, request))
        bar.end()
        parameters = drawing_parameters(request, latents=None, bundle=bundle, pipeline=pipeline)
    files = [str(file) for file in save_rounds(reflection, out)]
    if records is not None:
        records.add(reflection, prompt, BUNDLE_JUDGE, parameters)
    each = rounds_as_json(reflection)
    if as_json:
        show({"files": files, "rounds": each}, as_json)
    else:
        show({"files": ", ".join(files), **{f"round {number}": facts for number, facts in enumerate(each)}}, as_json)
