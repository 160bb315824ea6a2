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


@dataclass(frozen=True, kw_only=True)
class DemoRequest:
    """A request of the demonstration.

    inputs: the indices of the earlier drawings that are its input pictures.
    """

    prompt: str
    inputs: tuple[int, ...] = ()


DEMO_REQUESTS = (
    DemoRequest(prompt="a large red circle on a blue background"),
    DemoRequest(prompt="a small yellow star on a purple background"),
    DemoRequest(prompt="a green square to the left of a yellow star on white"),
    DemoRequest(prompt="three small purple triangles on orange"),
    DemoRequest(prompt="make the circle green", inputs=(0,)),
    DemoRequest(prompt="replace the star with a white square", inputs=(1,)),
    DemoRequest(prompt="remove the square", inputs=(2,)),
    DemoRequest(prompt="change the background to black", inputs=(2,)),
    DemoRequest(
        prompt="put the object from the first image and the object from the second image on a white background",
        inputs=(0, 1),
    ),
    DemoRequest(prompt="the object from image 2 on the background of image 1", inputs=(0, 1)),
)
DEMO_TALK = (
    "hello",
    "draw a small yellow star on black",
    "what do you see?",
    "make the star bigger",
    "change the background to blue",
    "how many circles are there?",
    "replace the star with a small red circle",
    "is the circle small or large?",
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
        drawing = pipeline.generate(_request(demo.prompt, inputs)).images[0]
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
        answer = chat.ask(prompt, request=_request("", ()), temperature=0.0)
        if answer.images:
            lines = [] if pictures else lines
            pictures.append((answer.images[0], lines))
        lines += [f"you: {prompt}", *([f"nano: {answer.text}"] if answer.text else [])]
    return [
        SheetEntry(prompt="\n".join(lines), drawing=picture, starts_row=number == 0)
        for number, (picture, lines) in enumerate(pictures)
    ]


def _request(prompt: str, images: tuple[Image.Image, ...]) -> Request:
    return Request(
        prompt=prompt, images=images, steps=STEPS, text_guidance=TEXT_GUIDANCE, image_guidance=IMAGE_GUIDANCE, seed=SEED
    )
