"""What `omnigen2 demo` shows: a few drawings, edits of them and combinations, on one sheet. Knows the pipeline by one method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from ..runtime.request import Request, Result
from .evaluation import IMAGE_GUIDANCE, STEPS, TEXT_GUIDANCE
from .sheet import Drawn, contact_sheet

Progress = Callable[[int, int, str], object]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A request. of: the numbers of the earlier answers that it is given as pictures."""

    prompt: str
    of: tuple[int, ...] = ()


SHOWN = (
    Shown(prompt="a large red circle on a blue background"),
    Shown(prompt="a small yellow star on a purple background"),
    Shown(prompt="a green square to the left of a yellow star on white"),
    Shown(prompt="three small purple triangles on orange"),
    Shown(prompt="make the circle green", of=(0,)),
    Shown(prompt="replace the star with a white square", of=(1,)),
    Shown(prompt="remove the square", of=(2,)),
    Shown(prompt="change the background to black", of=(2,)),
    Shown(
        prompt="put the object from the first image and the object from the second image on a white background",
        of=(0, 1),
    ),
    Shown(prompt="the object from image 2 on the background of image 1", of=(0, 1)),
)
SEED = 1


class Painter(Protocol):
    """What is shown: `runtime.pipeline.Pipeline`."""

    def generate(self, request: Request) -> Result: ...


def demonstrate(painter: Painter, progress: Progress = lambda done, total, what: None) -> Image.Image:
    """Draw all of SHOWN. progress(done, total, what) is called before each. Returns the contact sheet."""
    drawings: list[Drawn] = []
    for number, shown in enumerate(SHOWN):
        progress(number, len(SHOWN), shown.prompt)
        inputs = tuple(drawings[k].picture for k in shown.of)
        request = Request(
            prompt=shown.prompt,
            images=inputs,
            steps=STEPS,
            text_guidance=TEXT_GUIDANCE,
            image_guidance=IMAGE_GUIDANCE,
            seed=SEED,
        )
        drawings.append(Drawn(prompt=shown.prompt, picture=painter.generate(request).images[0], inputs=inputs))
    return contact_sheet(drawings)
