"""The messages of a chat request as the turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from ..runtime.chat.turns import Turn
from .bodies import ChatBody, ImagePart, Message, TextPart
from .errors import ApiError
from .pictures import data_url_bytes, read_picture
from .settings import MAX_IMAGES


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A conversation up to its open question."""

    turns: tuple[Turn, ...]
    prompt: str
    images: Sequence[Image.Image] = field(default_factory=tuple)


def dialogue(body: ChatBody) -> Dialogue:
    """The conversation of a body whose pictures are data URLs. Raises ApiError for messages in another order, and bad pictures.

    A system message's text is put before the first question: the model's templates have no place for it.
    """
    system = "".join(f"{_text(message)}\n\n" for message in body.messages if _is_system(message))
    places = [(f"messages[{i}]", message) for i, message in enumerate(body.messages) if not _is_system(message)]
    for index, (place, message) in enumerate(places):
        expected = "assistant" if index % 2 else "user"
        if message.role != expected:
            place = f"{place}.role"
            raise ApiError("invalid_value", f"{place} must be {expected!r}: questions and answers alternate", place)
    if len(places) % 2 == 0:
        raise ApiError("invalid_value", "messages must end with a question of the user", "messages")
    questions = [(system * (not i) + _text(message), _images(message, place)) for i, (place, message) in enumerate(places[::2])]
    turns = []
    for (prompt, images), (place, message) in zip(questions, places[1::2], strict=False):
        drawn = _images(message, place)
        turns.append(Turn(prompt=prompt, images=images, answer="" if drawn else _text(message), answer_images=drawn))
    prompt, images = questions[-1]
    return Dialogue(turns=tuple(turns), prompt=prompt, images=images)


def picture_parts(message: Message, place: str) -> list[tuple[ImagePart, str]]:
    """A message's pictures, each with its place in the body."""
    content = message.content if isinstance(message.content, list) else []
    parts = [(part, f"{place}.content[{i}].image_url") for i, part in enumerate(content) if isinstance(part, ImagePart)]
    return parts + [(part, f"{place}.images[{i}].image_url") for i, part in enumerate(message.images or ())]


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _text(message: Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "\n".join(part.text for part in message.content if isinstance(part, TextPart))


def _images(message: Message, place: str) -> list[Image.Image]:
    parts = picture_parts(message, place)
    if len(parts) > MAX_IMAGES:
        message_text = f"{place} holds {len(parts)} pictures; at most {MAX_IMAGES} are taken"
        raise ApiError("invalid_value", message_text, f"{place}.content")
    return [read_picture(data_url_bytes(part.image_url.url, param), param) for part, param in parts]
