"""A conversation of several turns, each answered in words or with a picture.

The KV cache keeps what was read, so a turn costs only its own tokens. A conversation can be resumed from its turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from threading import Lock
from typing import Any

from PIL import Image

from ..checks import check_callback, check_text, reporting
from ..errors import RequestError
from ..images.loading import ImageSource, load_images
from ..mllm.language_model import KVCache
from ..mllm.prompt_encoder import PromptEncoder
from ..request import OnStep, asks_to_stop
from .answer_stream import AnswerStream, Exclusive
from .arguments import check_sequence
from .exchange import ChatResult, Exchange, Question, Segment, question_ids
from .settings import ChatSettings
from .turns import Past, Turn

OnToken = Callable[[str], object]
"""Called with each piece of an answer; returning False cancels the answer."""


class Conversation:
    """A conversation. Made by `Pipeline.start_chat`.

    A turn that fails leaves it as it was; one that is cancelled keeps what was generated until then. It answers one question at
    a time: another one from a callback or another thread meanwhile raises RequestError.
    """

    def __init__(self, encoder: PromptEncoder, turns: Sequence[Turn] = ()) -> None:
        self._encoder = encoder
        self._lock = Lock()
        self._past = Past()
        self._stream: AnswerStream | None = None
        self._past_if_closed: Callable[[], Past] = Past
        given = check_sequence("turns", turns, "Turn, as Conversation.turns gives them")
        with reporting("turns"):
            if not all(isinstance(turn, Turn) for turn in given):
                raise RequestError("turns must be a sequence of Turn, as Conversation.turns gives them")
        for turn in given:
            self._past = self._resumed(self._past, turn)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns so far: `start_chat(turns=…)` goes on from them, in another process too."""
        return self._past.turns

    @property
    def images(self) -> list[Image.Image]:
        """Every picture of the conversation, given or drawn, in the order of their numbers."""
        return list(self._past.images)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The ids of all tokens in the KV cache, a picture's repeated for each of its embeddings."""
        return self._past.cache.rows[0]

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

        A drawing starts from `images`, or where there are none from the last pictures of the conversation.

        settings: how the answer is generated; changes: fields of it by name. on_token(text): called as the answer is generated;
        returning False cancels. on_step(step): called while drawing; returning False stops that. Raises RequestError,
        BundleError or BackendError.
        """
        check_callback("on_token", on_token)
        with self._exclusive():
            answer = self._start(prompt, images, ChatSettings.chosen(settings, changes), on_step, nullcontext)
            try:
                for piece in answer:
                    if on_token is not None and asks_to_stop(on_token(piece)):
                        answer.close()
            except KeyboardInterrupt:
                answer.close()
                raise
            except BaseException:
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
        """One turn whose text comes out of an iterator. See `ask`. The next turn closes it, unless that is refused."""
        with self._exclusive():
            return self._start(prompt, images, ChatSettings.chosen(settings, changes), on_step, self._exclusive)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keeps everybody else away from the conversation. Raises RequestError where it is at work already."""
        if not self._lock.acquire(blocking=False):
            raise RequestError(
                "this conversation is at work on an answer: wait for its end, or cancel it by returning False from its callback"
            )
        try:
            yield
        finally:
            self._lock.release()

    def _start(
        self,
        prompt: str,
        images: Sequence[ImageSource],
        settings: ChatSettings,
        on_step: OnStep | None,
        exclusive: Exclusive,
    ) -> AnswerStream:
        """Reads a question. An open stream is closed only when nothing can refuse the question any more."""
        check_callback("on_step", on_step)
        prompt = check_text("prompt", prompt)
        is_open = self._stream is not None and self._stream.is_open
        past = self._past_if_closed() if is_open else self._past
        pictures = load_images("images", images)
        exchange = Exchange(self._encoder, [self._question(past, prompt, pictures)], settings, past.cache)
        if self._stream is not None and is_open:
            self._stream.end(is_complete=False)
        before = replace(past, cache=KVCache(), history=())  # the closures below need neither, and they hold memory

        def ended(is_complete: bool) -> tuple[ChatResult, Past]:
            result = exchange.result(0, on_step, is_complete)
            after = before.with_turn(prompt, pictures, result)
            return result, replace(after, cache=exchange.state.cache, unread=self._unread_segment(exchange.state.unread()))

        def finish(is_complete: bool) -> ChatResult:
            result, self._past = ended(is_complete)
            self._stream, self._past_if_closed = None, Past  # a cycle of references would keep the pictures in memory
            return result

        self._past_if_closed = lambda: ended(False)[1]
        self._stream = AnswerStream(exchange.pieces(), finish, exclusive)
        return self._stream

    def _question(self, past: Past, prompt: str, pictures: Sequence[Image.Image]) -> Question:
        """The next question: the pictures that the last turn drew are shown again, under the numbers that they have."""
        shown = [*past.shown_next, *pictures]
        chat = self._encoder.model.chat
        template = chat.next_turn if past.turns else chat.first_turn
        first = len(past.images) - len(past.shown_next) + 1
        ids = question_ids(self._encoder, template, prompt, range(first, first + len(shown)))
        segments = [past.unread, Segment(ids, shown)]
        references = pictures or past.shown_next or past.last_pictures
        return Question(prompt=prompt, images=shown, references=references, segments=segments, history=past.history)

    def _resumed(self, past: Past, turn: Turn) -> Past:
        """The conversation after a turn that is known; the next question's run reads it."""
        pictures = load_images("images", turn.images)
        question = self._question(past, turn.prompt, pictures)
        answer = turn.token_ids or self._answer_ids(turn)
        vocabulary = self._encoder.tokenizer.vocabulary_size
        if max(answer, default=0) >= vocabulary:
            raise RequestError(f"a turn has token id {max(answer)}; this model's vocabulary has {vocabulary} tokens")
        drawn = load_images("answer_images", turn.answer_images)
        result = ChatResult(text=turn.answer, token_ids=tuple(answer), images=drawn, result=None)
        # An answer known by its words ended with a stop token, which the next turn's template holds: all of its words were read.
        unread = () if turn.answer and not turn.token_ids else answer[-1:]
        history = (*past.history, *question.segments, Segment(answer[: len(answer) - len(unread)]))
        return replace(past.with_turn(turn.prompt, pictures, result), history=history, unread=self._unread_segment(unread))

    def _answer_ids(self, turn: Turn) -> list[int]:
        """The tokens of an answer that is known by its words or pictures. Raises RequestError where the model never draws."""
        draw_token = self._encoder.model.chat.draw_token_id
        if not turn.answer_images:
            return self._encoder.tokenizer.encode(turn.answer)
        if draw_token is None:
            raise RequestError("a turn was answered with pictures, but this bundle's model never draws in a chat")
        return [draw_token]

    def _unread_segment(self, ids: Sequence[int]) -> Segment:
        """The unread tokens of an answer; none if the template of the next turn begins with their text."""
        text = self._encoder.tokenizer.decode(ids, skip_special=False)
        is_in_template = bool(text) and self._encoder.model.chat.next_turn.startswith(text)
        return Segment(() if is_in_template else tuple(ids))
