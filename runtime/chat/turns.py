"""The turns of a conversation: what a caller keeps of them, and what the next question builds on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image

from ..checks import check_integer, check_text
from ..errors import RequestError
from ..images.loading import ImageSource, image_sources
from ..mllm.language_model import KVCache
from .arguments import check_sequence
from .exchange import ChatResult, Segment


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """A past turn of a conversation. Raises RequestError for a field of another type, and for words and pictures at once.

    prompt: the question's text.
    images: the pictures that were given with it, as for `Request.images`.
    answer: the answer's words; empty if it was a picture.
    answer_images: the answer's pictures.
    token_ids: the answer's tokens as generated. Without them the words are tokenized anew, which can give other tokens.
    """

    prompt: str
    images: Sequence[ImageSource] = ()
    answer: str = ""
    answer_images: Sequence[ImageSource] = ()
    token_ids: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("prompt", "answer"):
            object.__setattr__(self, name, check_text(name, getattr(self, name)))
        for name in ("images", "answer_images"):
            object.__setattr__(self, name, image_sources(name, getattr(self, name)))
        given = check_sequence("token_ids", self.token_ids, "token ids")
        ids = tuple(check_integer(f"token_ids[{i}]", token, 0, "the first id", 2**31 - 1) for i, token in enumerate(given))
        object.__setattr__(self, "token_ids", ids)
        if self.answer and self.answer_images:
            raise RequestError("a turn was answered in words (answer) or with pictures (answer_images), not both")


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """A conversation between two turns.

    cache: what was read.
    history: what the next run reads before everything else: past turns of a resumed conversation.
    unread: the end of the last answer, which the cache hasn't read.
    shown_next: the pictures that the last answer drew; they are shown with the next question.
    last_pictures: those of the last turn that had any: what it drew, else its own, else what it was shown again.
    turns: all turns, their pictures loaded.
    images: every picture in the order of their numbers.
    """

    cache: KVCache = field(default_factory=KVCache)
    history: tuple[Segment, ...] = ()
    unread: Segment = Segment(())
    shown_next: tuple[Image.Image, ...] = ()
    last_pictures: tuple[Image.Image, ...] = ()
    turns: tuple[Turn, ...] = ()
    images: tuple[Image.Image, ...] = ()

    def with_turn(self, prompt: str, pictures: Sequence[Image.Image], answer: ChatResult) -> Past:
        """The turns and pictures with one turn more. Its tokens are the caller's to add: `cache` or `history`, and `unread`."""
        turn = Turn(
            prompt=prompt,
            images=pictures,
            answer=answer.text,
            answer_images=answer.images,
            token_ids=answer.token_ids,
        )
        return replace(
            self,
            shown_next=tuple(answer.images),
            last_pictures=tuple(answer.images) or tuple(pictures) or self.shown_next or self.last_pictures,
            turns=(*self.turns, turn),
            images=(*self.images, *pictures, *answer.images),
        )
