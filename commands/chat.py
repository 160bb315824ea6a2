"""`omnigen2 chat`: questions about pictures and for pictures, one or a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.chat.settings import ChatSettings
from ..runtime.errors import OmniGen2Error
from ..runtime.images.loading import load_images
from ..runtime.request import Request
from .doubts import note_doubts
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
from .terminal import ProgressLine, say, show

if TYPE_CHECKING:
    from ..runtime.pipeline import Pipeline


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
    out: Annotated[Path | None, typer.Option(help="The folder for pictures that are made; by default the current one.")] = None,
    as_json: AsJson = False,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    lora: Loras = None,
    lora_dir: LoraFolder = None,
) -> None:
    """Talk with the model: ask about pictures, or for pictures."""
    from .terminal_chat import answer_as_json, check_folder, cut_note, save_pictures, step_progress

    request = Request(prompt="", height_px=height, width_px=width, steps=steps, seed=seed)
    settings = ChatSettings(request=request, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    folder = Path() if out is None else out
    if out is not None:
        check_folder(out)
    if prompt is None and as_json:
        raise OmniGen2Error("--json needs a prompt: it prints one answer")
    pictures = load_images("--image", image or ())

    def open_bundle() -> Pipeline:
        return open_pipeline(bundle, backend, precision, threads, memory_limit, lora, lora_dir)

    if prompt is None:
        _converse(open_bundle, settings, folder, image or ())
        return
    with open_bundle() as pipeline:
        bar = ProgressLine()
        on_token = None if as_json else say
        answer = pipeline.chat(prompt, pictures, settings, on_token=on_token, on_step=step_progress(bar, request))
        bar.end()
        note_doubts(pipeline, prompt, answer.images)
    files = save_pictures(answer, folder)
    if as_json:
        show(answer_as_json(answer, files), as_json)
    else:
        say("\n".join([*([""] if answer.text else []), *map(str, files)]) + "\n")
        typer.echo(cut_note(answer), nl=False, err=True)


def _converse(open_bundle: Callable[[], Pipeline], settings: ChatSettings, folder: Path, images: Sequence[Path]) -> None:
    """A conversation through the standard streams. What can be refused is refused before the first question is read."""
    from .terminal_chat import converse, is_at_terminal, line_reader

    ask_line = line_reader()
    with open_bundle() as pipeline:
        _ = pipeline.language_model.chat  # raises where the bundle can only draw
        notes = partial(note_doubts, pipeline)
        converse(pipeline.start_chat, settings, folder, ask_line, say, images, at_terminal=is_at_terminal(), notes=notes)
