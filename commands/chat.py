"""`omnigen2 chat` and `reflect`: conversations, and pictures that the model corrects itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime.chat.settings import ChatSettings
from ..runtime.errors import OmniGen2Error
from ..runtime.request import Request
from .option_values import picture_names
from .options import (
    DEFAULTS,
    AsJson,
    Backend,
    BundleName,
    Height,
    MemoryLimit,
    Precision,
    Threads,
    Width,
    open_pipeline,
)
from .terminal import ProgressLine, say, show


def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this and end; without it, a conversation.")] = None,
    bundle: BundleName = "nano",
    image: Annotated[list[Path] | None, typer.Option(help="A picture to show with the prompt; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Tokens of the longest answer.")] = ChatSettings.max_new_tokens,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; by default the checkpoint's own.")] = None,
    height: Height = None,
    width: Width = None,
    steps: Annotated[int, typer.Option(help="Model evaluations for a picture.")] = DEFAULTS["steps"],
    seed: Annotated[int, typer.Option(help="Where the noise and the choice of words come from.")] = DEFAULTS["seed"],
    out: Annotated[Path, typer.Option(help="The folder for pictures that are made.")] = Path(),
    as_json: AsJson = False,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Talk with the model: ask about pictures, or for pictures."""
    from .terminal_chat import answer_as_json, converse, line_reader, save_pictures, step_progress

    request = Request(prompt="", height_px=height, width_px=width, steps=steps, seed=seed)
    if not out.is_dir():
        raise OmniGen2Error(f"--out {str(out)!r} is not a folder: make it first")
    if prompt is None and as_json:
        raise OmniGen2Error("--json needs a prompt: it prints one answer")
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    with open_pipeline(bundle, backend, precision, threads, memory_limit) as pipeline:
        if prompt is None:
            converse(pipeline.start_chat, request, out, line_reader(), say, settings, image or ())
            return
        on_token = None if as_json else say
        bar = ProgressLine()
        settings["on_step"] = step_progress(bar, request)
        answer = pipeline.chat(prompt, image or (), request=request, on_token=on_token, **settings)
        bar.end()
    files = save_pictures(answer, out)
    if as_json:
        show(answer_as_json(answer, files), as_json)
    else:
        typer.echo("\n".join([*([""] if answer.text else []), *map(str, files)]))


def reflect(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    bundle: BundleName = "nano",
    rounds: Annotated[int, typer.Option(help="Corrections at most.")] = 2,
    height: Height = None,
    width: Width = None,
    steps: Annotated[int, typer.Option(help="Model evaluations for a picture.")] = DEFAULTS["steps"],
    seed: Annotated[int, typer.Option(help="Where the noise comes from.")] = DEFAULTS["seed"],
    out: Annotated[Path, typer.Option(help="The best picture's file; the rounds and a sheet lie beside it.")] = Path("out.png"),
    as_json: AsJson = False,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Draw, look at the picture, correct it, and keep the best."""
    from .terminal_chat import rounds_as_json, save_rounds, step_progress

    request = Request(prompt=prompt, height_px=height, width_px=width, steps=steps, seed=seed)
    picture_names(out, 1)
    with open_pipeline(bundle, backend, precision, threads, memory_limit) as pipeline:
        bar = ProgressLine()
        reflection = pipeline.reflect(request, rounds, on_step=step_progress(bar, request))
        bar.end()
    files = [str(file) for file in save_rounds(reflection, out)]
    each = rounds_as_json(reflection)
    if as_json:
        show({"files": files, "rounds": each}, as_json)
    else:
        show({"files": ", ".join(files), **{f"round {number}": facts for number, facts in enumerate(each)}}, as_json)
