"""`omnigen2 pairs frames`: training pairs from the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..pairs.frame_settings import FrameSettings
from .endpoint_options import KEY, endpoint_client
from .options import AsJson, Backend, BundleName, MemoryLimit, Precision, Threads, open_pipeline
from .terminal import ProgressLine, note, show

if TYPE_CHECKING:
    from ..evaluation.endpoint import EndpointClient
    from ..pairs.frame_pairs import FrameModel
    from ..pairs.frames import Frame

app = typer.Typer(help="Make training pairs.")


@app.callback()
def pairs() -> None:
    """Make training pairs."""


@app.command()
def frames(
    folder: Annotated[Path, typer.Argument(help="The frames' folder; their names give the order.")],
    out: Annotated[Path, typer.Argument(help="The folder for pairs.jsonl and the report.")],
    bundle: BundleName = "nano",
    cut_below: Annotated[float, typer.Option(help="Neighbours less alike than this are a cut.")] = FrameSettings.cut_below,
    duplicate_above: Annotated[
        float, typer.Option(help="Frames more alike than this are near-duplicates.")
    ] = FrameSettings.duplicate_above,
    related_above: Annotated[
        float, typer.Option(help="Scenes less alike than this show different things.")
    ] = FrameSettings.related_above,
    length: Annotated[int, typer.Option(help="The most frames of a sequence.")] = FrameSettings.length,
    reach: Annotated[int, typer.Option(help="How many scenes ahead a scene's partners are looked for.")] = FrameSettings.reach,
    caption_question: Annotated[str | None, typer.Option(help="Asks for a caption, instead of: describe the picture")] = None,
    pair_question: Annotated[
        str | None, typer.Option(help="Asks about two pictures whether {instruction} made the second one; needs a yes.")
    ] = None,
    writer: Annotated[str | None, typer.Option(help="An OpenAI-compatible endpoint that writes, instead of the bundle.")] = None,
    writer_model: Annotated[str | None, typer.Option(help="The writer's model.")] = None,
    writer_key: Annotated[
        str, typer.Option(metavar="VARIABLE", help="The environment variable that holds the key of the writer's endpoint.")
    ] = KEY,
    as_json: AsJson = False,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Find scenes and sequences in frames, write and check captions and instructions. Run it again to go on after a stop."""
    from ..pairs.bundle_model import bundle_model
    from ..pairs.frame_pairs import make_pairs
    from ..pairs.words import CAPTION_QUESTION, UNANSWERED

    settings = FrameSettings(
        cut_below=cut_below, duplicate_above=duplicate_above, related_above=related_above, length=length, reach=reach
    )
    client = endpoint_client("--writer", writer, writer_model, writer_key)
    question = CAPTION_QUESTION if caption_question is None else caption_question
    with open_pipeline(bundle, backend, precision, threads, memory_limit) as pipeline:
        model = bundle_model(pipeline, question, pair_question or "")
        if client is not None:
            model = _written_by(client, model, question, pair_question)
        bar = ProgressLine()
        try:
            report = make_pairs(folder, out, model, settings, bar.show)
        finally:
            bar.end()
    show(report, as_json)
    if unanswered := report["dropped"].get(UNANSWERED):
        note(f"{unanswered} captions or instructions are missing, because the writer did not answer: run the same command again")


def _written_by(client: EndpointClient, model: FrameModel, caption_question: str, pair_question: str | None) -> FrameModel:
    """The model whose words come from an endpoint, which can compare two pictures."""
    from ..evaluation.asking import REFLECTION_QUESTIONS, answer_in_words, no_answer_reason
    from ..pairs.words import PAIR_QUESTION, Questions, Unanswered

    def ask(question: str, about: Sequence[Frame]) -> str:
        answer = answer_in_words(client, question, [frame.load() for frame in about])
        if not answer.text:
            raise Unanswered(no_answer_reason(answer))
        return answer.text

    pair = PAIR_QUESTION if pair_question is None else pair_question
    questions = Questions(caption=caption_question, reflection=REFLECTION_QUESTIONS, pair=pair)
    return replace(model, ask=ask, writer=f"{client.endpoint.url} {client.endpoint.model}", questions=questions)
