"""The messages of a chat request as the turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from PIL import Image

from ...runtime.chat.turns import Turn
from ..errors import ApiError
from ..settings import MAX_CHAT_IMAGES, MAX_IMAGES
from .bodies import ChatBody, ImagePart, Message, TextPart
from .pictures import read_data_url


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """A conversation up to its open question."""

    turns: tuple[Turn, ...]
    prompt: str
    images: Sequence[Image.Image] = field(default_factory=tuple)


class Said(NamedTuple):
    """One side's turn: a text, and pictures with their places in the body."""

    text: str
    pictures: list[tuple[ImagePart, str]]


def said(body: ChatBody) -> list[Said]:
    """The turns of the user and the model, the user first and last. Raises ApiError for messages in another order.

    A system message's text is put before the first question: the model's templates have no place for it. Messages of one role in
    a row are read as one.
    """
    system = "".join(f"{_text(message)}\n\n" for message in body.messages if _is_system(message))
    places = [(f"messages[{i}]", message) for i, message in enumerate(body.messages) if not _is_system(message)]
    runs = [list(run) for _, run in groupby(places, key=lambda place: place[1].role)]
    if not runs or runs[0][0][1].role != "user":
        raise ApiError("invalid_value", "messages must begin with a question of the user", "messages")
    if runs[-1][0][1].role != "user":
        raise ApiError("invalid_value", "messages must end with a question of the user", "messages")
    turns = [Said("\n\n".join(_text(message) for _, message in run), _pictures(run)) for run in runs]
    pictures = sum(len(turn.pictures) for turn in turns)
    if pictures > MAX_CHAT_IMAGES:
        message = f"messages have {pictures} pictures; at most {MAX_CHAT_IMAGES} are taken: leave out old ones"
        raise ApiError("invalid_value", message, "messages")
    return [Said(system + turns[0].text, turns[0].pictures), *turns[1:]]


def dialogue(body: ChatBody) -> Dialogue:
    """The conversation of a body whose pictures are data URLs. Raises ApiError as `said` does, and for bad pictures."""
    *past, (prompt, pictures) = said(body)
    read = [(text, _decoded(parts)) for text, parts in past]
    turns = [
        Turn(prompt=question, images=images, answer="" if drawn else answer, answer_images=drawn)
        for (question, images), (answer, drawn) in zip(read[::2], read[1::2], strict=True)
    ]
    return Dialogue(turns=tuple(turns), prompt=prompt, images=_decoded(pictures))


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


def _pictures(run: Sequence[tuple[str, Message]]) -> list[tuple[ImagePart, str]]:
    """The pictures of messages that are read as one."""
    parts = [part for place, message in run for part in picture_parts(message, place)]
    if len(parts) > MAX_IMAGES:
        place = f"{run[-1][0]}.content"
        raise ApiError("invalid_value", f"{place} has {len(parts)} pictures; at most {MAX_IMAGES} are taken", place)
    return parts


def _decoded(parts: Sequence[tuple[ImagePart, str]]) -> list[Image.Image]:
    return [read_data_url(part.image_url.url, param) for part, param in parts]
