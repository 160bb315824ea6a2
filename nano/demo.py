"""The demonstration that `omnigen2 demo` runs: drawings, edits and combinations on one contact sheet."""

from __future__ import annotations

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
SEED = 1


def demonstrate(pipeline: Pipeline, progress: Progress = no_progress) -> Image.Image:
    """Draw all of DEMO_REQUESTS. `progress` is called before each. Returns the contact sheet."""
    entries: list[SheetEntry] = []
    for number, demo in enumerate(DEMO_REQUESTS):
        progress(number, len(DEMO_REQUESTS), demo.prompt)
        inputs = tuple(entries[k].drawing for k in demo.inputs)
        request = Request(
            prompt=demo.prompt,
            images=inputs,
            steps=STEPS,
            text_guidance=TEXT_GUIDANCE,
            image_guidance=IMAGE_GUIDANCE,
            seed=SEED,
        )
        entries.append(SheetEntry(prompt=demo.prompt, drawing=pipeline.generate(request).images[0], inputs=inputs))
    return contact_sheet(entries)
