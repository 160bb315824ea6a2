"""`omnigen2 reflect`: a picture that is judged and corrected, and records of that for training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.chat.reflection import MAX_ROUNDS
from ..runtime.checks import check_integer
from ..runtime.errors import OmniGen2Error
from ..runtime.parameters import drawing_parameters
from ..runtime.request import OnStep, Request, Result
from .endpoint_options import KEY, JudgeKey, JudgeModel, JudgeURL, endpoint_client
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
from .terminal import ProgressLine, note, show

if TYPE_CHECKING:
    from ..evaluation.asking import OutsideJudge
    from ..evaluation.endpoint import EndpointClient
    from ..runtime.chat.reflection import Reflection
    from ..runtime.pipeline import Pipeline


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
    judge: JudgeURL = None,
    judge_model: JudgeModel = None,
    judge_key: JudgeKey = KEY,
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
    from .terminal_chat import BUNDLE_JUDGE, files_beside, rounds_as_json, save_rounds, step_progress

    request = Request(prompt=prompt, height_px=height, width_px=width, steps=steps, seed=seed)
    check_integer("rounds", rounds, 1, "the fewest", MAX_ROUNDS)
    picture_names(out, 1)
    for file in files_beside(out, rounds + 1):
        picture_names(file, 1)
    records = None if record is None else ReflectionRecords(path=record)
    if records is not None:
        records.begin()
    client = endpoint_client("--judge", judge, judge_model, judge_key)
    with open_pipeline(bundle, backend, precision, threads, memory_limit, lora, lora_dir) as pipeline:
        bar = ProgressLine()
        on_step = step_progress(bar, request)
        outside = None if client is None else _outside_judge(client)
        try:
            if outside is None:
                reflection = pipeline.reflect(request, rounds, on_step=on_step)
            else:
                reflection = _reflect_with(outside, pipeline, request, rounds, on_step)
        finally:
            bar.end()
        parameters = drawing_parameters(request, latents=None, bundle=bundle, pipeline=pipeline)
    name = BUNDLE_JUDGE if outside is None else outside.model
    files = [str(file) for file in save_rounds(reflection, out, name)]
    if records is not None:
        records.add(reflection, prompt, name, parameters)
        if not records.training_path.stat().st_size:
            note(f"{str(records.training_path)!r} is still empty: no correction was graded higher than what it started from")
    each = rounds_as_json(reflection)
    if as_json:
        show({"files": files, "judge": name, "rounds": each}, as_json)
    else:
        lines = {f"round {number}": facts for number, facts in enumerate(each)}
        show({"files": ", ".join(files), "judge": name, **lines}, as_json)
    if outside is not None:
        _check_judge(outside, reflection)


def _outside_judge(client: EndpointClient) -> OutsideJudge:
    from ..evaluation.asking import OutsideJudge

    return OutsideJudge(client, client.endpoint.model)


def _reflect_with(outside: OutsideJudge, pipeline: Pipeline, request: Request, rounds: int, on_step: OnStep) -> Reflection:
    """A reflection whose questions the outside judge answers; the pipeline only draws."""
    from ..evaluation.asking import REFLECTION_QUESTIONS
    from ..runtime.chat.reflection import reflect as run_reflection

    def draw(each: Request) -> Result:
        return pipeline.generate(each, on_step)

    return run_reflection(request, rounds, REFLECTION_QUESTIONS, draw=draw, ask=outside.ask)


def _check_judge(outside: OutsideJudge, reflection: Reflection) -> None:
    """Note where no grade came. Raises OmniGen2Error where the judge's endpoint failed; the pictures are saved by then."""
    graded = sum(done.grade is not None for done in reflection.rounds)
    if outside.failure is not None:
        raise OmniGen2Error(f"the reflection ended early: {outside.failure}; its pictures are saved, {graded} of them graded")
    if not graded:
        note("the judge gave no grade that can be read, so the last picture was kept")
