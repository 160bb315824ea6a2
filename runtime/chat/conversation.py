"""A conversation of several turns, each answered in words or with a picture.

The KV cache keeps what was read, so a turn costs only its own tokens. A conversation can be resumed from its turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ..errors import RequestError
from ..images.loading import ImageSource, image_sources, load_image, load_images
from ..mllm.language_model import KVCache
from ..mllm.prompt_encoder import PromptEncoder
from ..request import OnStep, check_integer, check_text
from .exchange import ChatResult, Exchange, Question, Segment, question_ids
from .settings import ChatSettings

OnToken = Callable[[str], object]
"""Called with each piece of an answer; returning False cancels the answer."""


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
            check_text(name, getattr(self, name))
        for name in ("images", "answer_images"):
            object.__setattr__(self, name, image_sources(name, getattr(self, name)))
        if isinstance(self.token_ids, str | bytes) or not isinstance(self.token_ids, Sequence | np.ndarray):
            raise RequestError(f"token_ids must be a sequence of token ids, not {type(self.token_ids).__name__}")
        ids = tuple(check_integer(f"token_ids[{i}]", token, 0, "the first id") for i, token in enumerate(self.token_ids))
        object.__setattr__(self, "token_ids", ids)
        if self.answer and self.answer_images:
            raise RequestError("a turn was answered in words (answer) or with pictures (answer_images), not both")


class AnswerStream(Iterator[str]):
    """An answer as it is generated: iterate over its text, then call `finish`.

    A picture is drawn before the iterator ends. `close()` cancels; the conversation keeps what was generated until then.
    """

    def __init__(self, pieces: Iterator[tuple[int, str]], finish: Callable[[bool], ChatResult]) -> None:
        self._pieces = pieces
        self._finish = finish
        self._result: ChatResult | None = None
        self._failed = False

    def __next__(self) -> str:
        if self._failed or self._result is not None:
            raise StopIteration
        try:
            piece = next(self._pieces, None)
            if piece is None:
                self._result = self._finish(True)
        except KeyboardInterrupt:
            self.close()
            raise
        except Exception:
            self._failed = True
            raise
        if piece is None:
            raise StopIteration
        return piece[1]

    def close(self) -> None:
        """Cancel what is left of the answer."""
        if not self._failed and self._result is None:
            self._result = self._finish(False)

    def discard(self) -> None:
        """Give up the answer: unless it is finished or closed, the conversation stays as it was before the question."""
        self._failed = self._failed or self._result is None

    def finish(self) -> ChatResult:
        """The whole answer, generated to its end; as far as it came if it was cancelled. Raises RequestError if it failed."""
        for _ in self:
            pass
        if self._result is None:
            raise RequestError("this answer failed; ask again")
        return self._result


class Conversation:
    """A conversation. Made by `Pipeline.start_chat`.

    A turn that fails leaves it as it was; one that is cancelled keeps what was generated until then. images: every picture of the
    conversation, given or drawn, in the order of their numbers.
    """

    def __init__(self, encoder: PromptEncoder, turns: Sequence[Turn] = ()) -> None:
        self._encoder = encoder
        self._cache = KVCache()
        self._history: list[Segment] = []
        self._unread = Segment(())
        self._shown_next: list[Image.Image] = []
        self._turns: list[Turn] = []
        self._stream: AnswerStream | None = None
        self.images: list[Image.Image] = []
        if not isinstance(turns, Sequence) or not all(isinstance(turn, Turn) for turn in turns):
            raise RequestError("turns must be a sequence of Turn, as Conversation.turns gives them")
        for turn in turns:
            self._resume(turn)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns so far: `start_chat(turns=…)` goes on from them, in another process too."""
        return tuple(self._turns)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of all tokens in the KV cache, a picture's repeated for each of its embeddings."""
        return self._cache.rows[0]

    def ask(
        self,
        prompt: str,
        images: Sequence[ImageSource] = (),
        settings: ChatSettings | None = None,
        *,
        on_token: OnToken | None = None,
        on_step: OnStep | None = None,
        **changes: Any,
    ) -> ChatResult:
        """One turn. A picture that the turn before drew is shown along with `images`, to be asked about or edited.

        settings: how the answer is generated; changes: fields of it by name. on_token(text): called as the answer is generated;
        returning False cancels. on_step(step): called while drawing; returning False stops that. Raises RequestError or
        BundleError.
        """
        answer = self.stream(prompt, images, settings, on_step=on_step, **changes)
        try:
            for piece in answer:
                if on_token is not None and on_token(piece) is False:
                    answer.close()
        except KeyboardInterrupt:
            answer.close()
            raise
        except Exception:
            answer.discard()
            raise
        return answer.finish()

    def stream(
        self,
        prompt: str,
        images: Sequence[ImageSource] = (),
        settings: ChatSettings | None = None,
        *,
        on_step: OnStep | None = None,
        **changes: Any,
    ) -> AnswerStream:
        """One turn whose text comes out of an iterator. See `ask`. The next turn closes it."""
        chosen = ChatSettings.chosen(settings, changes)
        if self._stream is not None:
            self._stream.close()
        pictures = load_images("images", images)
        question = self._question(prompt, pictures)
        exchange = Exchange(self._encoder, [question], chosen, self._cache)

        def finish(is_complete: bool) -> ChatResult:
            result = exchange.result(0, on_step, is_complete)
            self._keep(prompt, pictures, result)
            self._cache, self._history = exchange.state.cache, []
            self._unread = self._unread_segment(exchange.state.unread())
            return result

        self._stream = AnswerStream(exchange.pieces(), finish)
        return self._stream

    def _question(self, prompt: str, pictures: Sequence[Image.Image]) -> Question:
        """The next question: the pictures that the last turn drew are shown again, under the numbers that they have."""
        shown = [*self._shown_next, *pictures]
        chat = self._encoder.model.chat
        template = chat.next_turn if self._turns else chat.first_turn
        first = len(self.images) - len(self._shown_next) + 1
        ids = question_ids(self._encoder, template, prompt, range(first, first + len(shown)))
        return Question(
            prompt=prompt, images=shown, segments=[self._unread, Segment(ids, shown)], history=tuple(self._history)
        )

    def _resume(self, turn: Turn) -> None:
        """Takes a past turn in; the next question's run reads it."""
        pictures = [load_image(image) for image in turn.images]
        question = self._question(turn.prompt, pictures)
        answer = list(turn.token_ids) or self._answer_ids(turn)
        vocabulary = self._encoder.tokenizer.vocabulary_size
        if max(answer, default=0) >= vocabulary:
            raise RequestError(f"a turn has token id {max(answer)}; this model's vocabulary has {vocabulary} tokens")
        result = ChatResult(
            text=turn.answer,
            token_ids=tuple(answer),
            images=[load_image(image) for image in turn.answer_images],
            result=None,
        )
        self._keep(turn.prompt, pictures, result)
        self._history += [*question.segments, Segment(answer[:-1])]
        self._unread = self._unread_segment(answer[-1:])

    def _answer_ids(self, turn: Turn) -> list[int]:
        """The tokens of an answer that is known by its words or pictures. Raises RequestError where the model never draws."""
        draw_token = self._encoder.model.chat.draw_token_id
        if not turn.answer_images:
            return self._encoder.tokenizer.encode(turn.answer)
        if draw_token is None:
            raise RequestError("a turn was answered with pictures, but this bundle's model never draws in a chat")
        return [draw_token]

    def _keep(self, prompt: str, pictures: Sequence[Image.Image], result: ChatResult) -> None:
        """Adds a turn and its pictures."""
        self._shown_next = list(result.images)
        self.images += [*pictures, *result.images]
        self._turns.append(
            Turn(
                prompt=prompt,
                images=tuple(pictures),
                answer=result.text,
                answer_images=tuple(result.images),
                token_ids=result.token_ids,
            )
        )

    def _unread_segment(self, ids: Sequence[int]) -> Segment:
        """The unread tokens of an answer; none if the template of the next turn begins with their text."""
        text = self._encoder.tokenizer.decode(ids, skip_special=False)
        return Segment(() if self._encoder.model.chat.next_turn.startswith(text) else tuple(ids))
