"""Questions that ask a language model to make a prompt long, for drawings and for edits; or a user's own text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import RequestError
from ..runtime.files.reading import read_bytes

MAX_TEMPLATE_BYTES = 2**16
PROMPT, IMAGES = "{prompt}", "{images}"

DRAWING = """\
Turn a short request for a picture into a long description for a text-to-image model: English, one paragraph, 60 to 120 words.
Keep everything that the request names: every thing, how many there are, their colours, sizes and places.
Copy texts in quotation marks letter by letter.
Add only what fits: materials, light, surroundings, mood, style, the view.
Answer with the description and nothing else.

Request: {prompt}"""

EDITING = """\
An image editor is given images and an instruction; the number of images is {images}.
Make the instruction precise: English, one paragraph, 30 to 80 words.
Keep everything that it names: every thing, how many there are, their colours, sizes and places.
Name the images in the same words, such as "image 2" or "the first image". Copy texts in quotation marks letter by letter.
Say what changes, how it looks afterwards, and what stays as it is.
Answer with the instruction and nothing else.

Instruction: {prompt}"""


@dataclass(frozen=True, kw_only=True)
class Templates:
    """The question for a prompt without images, and that for one with images. Raises RequestError for one without {prompt}."""

    drawing: str = DRAWING
    editing: str = EDITING

    def __post_init__(self) -> None:
        for text in (self.drawing, self.editing):
            if PROMPT not in text:
                raise RequestError(f"the template for rewriting does not hold {PROMPT}, the place of the prompt")

    def question(self, prompt: str, images: int) -> str:
        """The question about a prompt with so many input images. A prompt that holds a placeholder keeps it."""
        texts = {PROMPT: prompt, IMAGES: str(images)}
        template = self.editing if images else self.drawing
        return re.sub(r"\{(?:prompt|images)\}", lambda found: texts[found[0]], template)


def read_templates(path: Path) -> Templates:
    """A user's template for all prompts; `{images}` in it is the number of input images. Raises RequestError."""
    try:
        text = read_bytes(path, MAX_TEMPLATE_BYTES).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise RequestError(f"the template {str(path)!r} can't be read: {reason}") from error
    return Templates(drawing=text, editing=text)
