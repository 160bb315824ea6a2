"""Which tasks a bundle can carry out, checked before they are queued."""

from __future__ import annotations

from ...runtime.drawing import picture_sizes
from ...runtime.pipeline import Pipeline
from ..errors import ApiError
from ..settings import CHARACTERS_PER_TOKEN, MAX_DELIVERED_PIXELS, MAX_SIDE_PX
from .bodies import ChatBody, DrawBody, DrawingBody, ReflectBody, TaskBody
from .conversations import said
from .inputs import picture_places, shrink_pictures


def check_task(body: TaskBody, pipeline: Pipeline) -> None:
    """Check a body whose pictures are data URLs, and shrink these to what is read of them.

    Raises ApiError, RequestError or BundleError.
    """
    if isinstance(body, ChatBody):
        _check_chat(body, pipeline)
    else:
        _check_drawing(body, pipeline)


def check_size(body: DrawingBody, pipeline: Pipeline, count: int) -> None:
    """Raises ApiError for pictures larger than the server delivers. A bundle that draws larger ones raises the bounds."""
    own = pipeline.bundle.manifest.vae.sample_px
    side, area = max(MAX_SIDE_PX, own), max(MAX_DELIVERED_PIXELS, own * own)
    width, height = body.size_px
    if width is None or height is None:
        width = height = own
    if max(width, height) > side:
        raise ApiError("invalid_value", f"size={body.size} is larger than {side} pixels a side", "size")
    if width * height * count > area:
        raise ApiError("invalid_value", f"size={width}x{height} for {count} pictures is more than {area} pixels together", "size")


def _check_drawing(body: DrawBody | ReflectBody, pipeline: Pipeline) -> None:
    check_size(body, pipeline, getattr(body, "n", 1))
    if isinstance(body, DrawBody) and body.rewrite and pipeline.bundle.manifest.chat is None:
        raise ApiError("unsupported_value", "rewrite needs a language model that writes: this bundle only draws", "rewrite")
    request = body.request(body.prompt)
    picture_sizes(pipeline.bundle.manifest, request, shrink_pictures(body, pipeline.bundle.manifest))
    if request.cache is not None:
        request.cache.check(pipeline.components.most_blended)


def _check_chat(body: ChatBody, pipeline: Pipeline) -> None:
    chat = pipeline.language_model.chat  # raises where the bundle can only draw
    check_size(body, pipeline, 1)
    body.settings().sampler(chat)
    turns = said(body)
    most, characters = CHARACTERS_PER_TOKEN * chat.max_context_tokens, sum(len(turn.text) for turn in turns)
    if characters > most:
        message = f"messages have {characters} characters; this model takes at most {most}: leave out old ones"
        raise ApiError("invalid_value", message, "messages")
    body.request(turns[-1].text)
    if picture_places(body):
        _ = pipeline.language_model.vision
        shrink_pictures(body, pipeline.bundle.manifest)
