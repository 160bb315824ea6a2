"""The demonstration that `omnigen2 demo` runs: drawings, edits, combinations and a conversation on one contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from ..runtime.pipeline import Pipeline
from ..runtime.progress import Progress, no_progress
from ..runtime.request import Request
from .contact_sheet import SheetEntry, contact_sheet
from .evaluation import IMAGE_GUIDANCE, STEPS, TEXT_GUIDANCE
from .world.scenes import SQUARE, PictureSize


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """A request of the demonstration.

    inputs: the indices of the earlier drawings that are its input pictures.
    size_px: of a drawing without inputs.
    """

    prompt: str
    inputs: tuple[int, ...] = ()
    size_px: PictureSize = SQUARE


DEMO_REQUESTS = (
    DemoRequest(prompt="a yellow house at night", size_px=(192, 128)),
    DemoRequest(prompt="three outlined purple triangles on orange"),
    DemoRequest(prompt="a green square to the left of a yellow star on white", size_px=(192, 128)),
    DemoRequest(prompt="a large striped red circle on a blue background"),
    DemoRequest(prompt="a small yellow star on a purple background"),
    DemoRequest(prompt="make the circle plain", inputs=(3,)),
    DemoRequest(prompt="replace the star with a blue square", inputs=(4,)),
    DemoRequest(prompt="remove the square", inputs=(2,)),
    DemoRequest(
        prompt="put the object from the first image and the object from the second image on a white background",
        inputs=(4, 6),
    ),
    DemoRequest(prompt="the object from image 2 on the background of image 1", inputs=(5, 4)),
)
DEMO_TALK = (
    "hello",
    "draw a red house by day",
    "what do you see?",
    "now draw it at night",
    "is it day or night?",
    "replace the house with a white flower",
    "paint the flower purple",
    "describe the picture",
)
"""The turns of a conversation about one picture."""
SEED = 3


def demonstrate(pipeline: Pipeline, progress: Progress = no_progress) -> Image.Image:
    """Draw all of DEMO_REQUESTS, then hold the conversation of DEMO_TALK. Returns the contact sheet.

    `progress` is called before each request and each turn, and at the end.
    """
    total = len(DEMO_REQUESTS) + len(DEMO_TALK)
    entries: list[SheetEntry] = []
    for number, demo in enumerate(DEMO_REQUESTS):
        progress(number, total, demo.prompt)
        inputs = tuple(entries[k].drawing for k in demo.inputs)
        drawing = pipeline.generate(_request(demo.prompt, inputs, demo.size_px)).images[0]
        entries.append(SheetEntry(prompt=demo.prompt, drawing=drawing, inputs=inputs))
    entries += _talk(pipeline, lambda turn: progress(len(DEMO_REQUESTS) + turn, total, DEMO_TALK[turn]))
    progress(total, total, "done")
    return contact_sheet(entries)


def _talk(pipeline: Pipeline, before_turn: Callable[[int], object]) -> list[SheetEntry]:
    """The conversation's pictures, each with all that was said about it; small talk before the first one goes with that."""
    chat = pipeline.start_chat()
    lines: list[str] = []
    pictures: list[tuple[Image.Image, list[str]]] = []
    for turn, prompt in enumerate(DEMO_TALK):
        before_turn(turn)
        answer = chat.ask(prompt, request=_request("", (), None), temperature=0.0)
        if answer.images:
            lines = [] if pictures else lines
            pictures.append((answer.images[0], lines))
        lines += [f"you: {prompt}", *([f"nano: {answer.text}"] if answer.text else [])]
    return [
        SheetEntry(prompt="\n".join(lines), drawing=picture, starts_row=number == 0)
        for number, (picture, lines) in enumerate(pictures)
    ]


def _request(prompt: str, images: tuple[Image.Image, ...], size_px: PictureSize | None) -> Request:
    """A request of the demonstration. size_px: of a drawing; an edit has its input's size. None for the model's own."""
    width_px, height_px = size_px if size_px and not images else (None, None)
    return Request(
        prompt=prompt,
        images=images,
        width_px=width_px,
        height_px=height_px,
        steps=STEPS,
        text_guidance=TEXT_GUIDANCE,
        image_guidance=IMAGE_GUIDANCE,
        seed=SEED,
    )
