"""A judge that reads nano's pictures with nano's own reader, for the endpoint double."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable

from PIL import Image

from omnigen2_rt.nano.judging.judge import find_mistakes
from omnigen2_rt.nano.tasks.task_types import ExpectedPicture
from tests.evaluation.endpoint_double import Asked, Reply, says


def picture_of(url: str) -> Image.Image:
    """The picture of a data URL."""
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return picture.convert("RGB")


def score_of(picture: Image.Image, expected: ExpectedPicture) -> int:
    """10 less 3 for each mistake that nano's reader finds."""
    return max(0, 10 - 3 * len(find_mistakes(picture, expected)))


def scoring(expected: ExpectedPicture) -> Callable[[Asked, int], Reply]:
    """A judge that answers a rubric with JSON."""

    def reply(asked: Asked, number: int) -> Reply:
        picture = picture_of(asked.pictures[-1])
        reason = "; ".join(find_mistakes(picture, expected)) or "right"
        return says(json.dumps({"reasoning": reason, "score": score_of(picture, expected)}))

    return reply


def reflecting(expected: ExpectedPicture, correction: str) -> Callable[[Asked, int], Reply]:
    """A judge that answers the questions of reflection. correction: the edit that it asks for."""

    def reply(asked: Asked, number: int) -> Reply:
        picture = picture_of(asked.pictures[-1])
        if "Answer only with the number" in asked.text:
            return says(f"{score_of(picture, expected)}")
        if "Write the instruction" in asked.text:
            return says(correction)
        return says("; ".join(find_mistakes(picture, expected)) or "Nothing.")

    return reply
