"""Notes on what the model that ships wasn't trained for. Knows nothing of other models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image

from .terminal import note

if TYPE_CHECKING:
    from ..runtime.pipeline import Pipeline


def note_doubts(pipeline: Pipeline, prompt: str, pictures: Sequence[Image.Image] = ()) -> None:
    """Print a note for words and sizes that nano wasn't trained for; nothing for other bundles."""
    from ..nano.doubts import doubts, is_nano

    found = [*doubts(prompt, (picture.size for picture in pictures))]
    if found and is_nano(pipeline.bundle):  # opens the shipped bundle, so it comes second
        for doubt in found:
            note(doubt)
