"""Talking: turns of a conversation, each answered in words or with a picture.

An answer that starts with the draw token makes a picture from the hidden states that reading the turn already gave.
What was read stays in the cache between turns, so a turn costs only its own tokens. Knows the bundle's templates and
asks the pipeline to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..denoiser import OnStep
from ..errors import RequestError
from ..images.loading import ImageSource, load_image
from ..manifest import ChatParameters
from ..mllm.language_model import Context, LanguageModel
from ..mllm.tokenizer import Tokenizer
from ..request import Request, Result
from .detokenizer import Words
from .generation import Chooser, Sampling, Writing, write

OnToken = Callable[[str], object]
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
MAX_NEW_TOKENS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatResult:
    """An answer.

    text: its words, without special tokens; empty where it is a picture. token_ids: as generated, stop token included.
    images: the pictures it made. result: their drawing, or None.
    """

    text: str
    token_ids: tuple[int, ...]
    images: list[Image.Image]
    result: Result | None


class ChatSettings(TypedDict, total=False):
    """How an answer is made; each may be left out.

    request: how to draw, if the answer is a picture; its prompt and images are the conversation's. max_new_tokens: 256
    if left out. temperature (0 is greedy), top_p, top_k, repetition_penalty: None, as if left out, is the checkpoint's
    own. seed: where the choice of words comes from. stop: texts that end an answer, not said themselves. may_draw:
    False lets it answer in words only. on_step(step): called while drawing; returning False stops that.
    """

    request: Request | None
    max_new_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    repetition_penalty: float | None
    seed: int
    stop: Sequence[str]
    may_draw: bool
    on_step: OnStep | None


class Painter(Protocol):
    """What a chat needs of the pipeline in order to draw."""

    def draw(self, request: Request, cond: NDArray[np.float32], negative: str, on_step: OnStep | None) -> Result:
        """Draw `request` guided by the hidden states `cond` (T, Dt), against a negative turn of this text."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question that was read: its text, its pictures, and the hidden states (T, Dt) of its tokens without the pictures'."""

    prompt: str
    images: list[Image.Image]
    states: NDArray[np.float32]


class Answer(Iterator[str]):
    """An answer as it comes: iterate it for its words, then take its `result`, with the picture if it is one.

    A picture is drawn before the iterator ends. `close()` cancels; the conversation keeps what was said until then.
    """

    def __init__(self, words: Iterator[str], finish: Callable[[str, bool], ChatResult]) -> None:
        self._words = words
        self._finish = finish
        self._said = ""
        self._result: ChatResult | None = None
        self._failed = False

    def __next__(self) -> str:
        if self._failed or self._result is not None:
            raise StopIteration
        try:
            part = self._advance()
        except KeyboardInterrupt:
            self.close()
            raise
        except Exception:
            self._failed = True
            raise
        if part is None:
            raise StopIteration
        return part

    def close(self) -> None:
        """Cancel what is left of it."""
        if not self._failed and self._result is None:
            self._result = self._finish(self._said, False)

    @property
    def result(self) -> ChatResult:
        """The whole answer, which is finished first if need be; what there was of it if it was cancelled."""
        for _ in self:
            pass
        if self._result is None:
            raise RequestError("this answer failed; ask again")
        return self._result

    def _advance(self) -> str | None:
        """The next words; at their end the result is made and there are none."""
        part = next(self._words, None)
        if part is None:
            self._result = self._finish(self._said, True)
        else:
            self._said += part
        return part


class Chat:
    """A conversation. A turn that fails leaves it as it was; one that is cancelled keeps what was said until then."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, painter: Painter) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._painter = painter
        self._context = Context()
        self._unread: list[int] = []
        self._made: list[Image.Image] = []
        self._answer: Answer | None = None
        self.images: list[Image.Image] = []
        """Every picture of the conversation, given or made, in the order of their numbers."""

    def ask(
        self,
        prompt: str,
        images: Sequence[ImageSource] = (),
        *,
        on_token: OnToken | None = None,
        **settings: Unpack[ChatSettings],
    ) -> ChatResult:
        """One turn. A picture that the turn before made is shown along with `images`, to be asked about or edited.

        on_token(text): called as the answer comes; returning False cancels. settings: see ChatSettings. Raises
        RequestError or BundleError.
        """
        answer = self.stream(prompt, images, **settings)
        for part in answer:
            if on_token is not None and on_token(part) is False:
                answer.close()
        return answer.result

    def stream(
        self, prompt: str, images: Sequence[ImageSource] = (), **settings: Unpack[ChatSettings]
    ) -> Answer:
        """One turn whose words come out of an iterator; its `result` is what `ask` gives. The next turn closes it."""
        facts, most = self._model.chat_facts, longest(settings)
        chooser, words = new_chooser(facts, settings), Words(self._tokenizer, settings.get("stop", ()))
        if self._answer is not None:
            self._answer.close()
        question, context = self._read(prompt, [load_image(image) for image in images])
        writing = Writing(context)
        tokens = write(self._model, writing, question.states[-1:], [chooser], facts.stop_token_ids, most)

        def finish(text: str, whole: bool) -> ChatResult:
            ids = writing.answers[0]
            draws = whole and ids[:1] == [facts.draw_token_id]
            drawn = draw_answer(self._painter, question, settings) if draws else None
            self._keep(question, writing, drawn)
            return ChatResult(text=text, token_ids=tuple(ids), images=drawn.images if drawn else [], result=drawn)

        self._answer = Answer(_said((token for _, token in tokens), words), finish)
        return self._answer

    @property
    def read_tokens(self) -> int:
        """How many tokens of the conversation are in the cache."""
        return len(self._context.ids)

    def _read(self, prompt: str, given: list[Image.Image]) -> tuple[Question, Context]:
        facts = self._model.chat_facts
        images = [*self._made, *given]
        template = facts.next_turn if self._context.ids else facts.first_turn
        first = len(self.images) - len(self._made) + 1
        ids = question_ids(facts, self._tokenizer, template, prompt, range(first, first + len(images)))
        seen = [self._model.look(image) for image in images]
        expanded = [*self._unread, *self._model.expand(ids, seen)]
        states, context = self._model.read(self._context, expanded, seen)
        return Question(prompt=prompt, images=images, states=states[np.array(expanded) != facts.image_token_id]), context

    def _keep(self, question: Question, writing: Writing, drawn: Result | None) -> None:
        """The turn becomes part of the conversation. Its last token waits to be read, unless the template will say it."""
        given = question.images[len(self._made) :]
        self._made = list(drawn.images) if drawn else []
        self.images += [*given, *self._made]
        self._context = writing.context
        unread = writing.unread()
        template = self._model.chat_facts.next_turn
        self._unread = [] if template.startswith(self._tokenizer.decode(unread, skip_special=False)) else unread


def question_ids(
    facts: ChatParameters, tokenizer: Tokenizer, template: str, prompt: str, image_numbers: Sequence[int]
) -> list[int]:
    """The ids of a turn, one image token for each image before its text. Raises RequestError for others in the text."""
    tags = "".join(facts.image_tag.replace("{number}", str(number)) for number in image_numbers)
    ids = tokenizer.encode(template.replace("{prompt}", tags + prompt))
    extra = sum(number == facts.image_token_id for number in ids) - len(image_numbers)
    if extra > 0:
        raise RequestError(f"the prompt itself holds {extra} image tokens, without an image; give images apart from the text")
    return ids


def new_chooser(facts: ChatParameters, settings: ChatSettings) -> Chooser:
    """What picks the tokens of one answer. Raises RequestError for a sampling setting out of range."""
    stored: dict[str, Any] = {name: getattr(facts, name) for name in SAMPLING}
    wanted = {name: value for name, value in settings.items() if name in SAMPLING and value is not None}
    banned = [] if settings.get("may_draw", True) or facts.draw_token_id is None else [facts.draw_token_id]
    return Chooser(Sampling(**{**stored, **wanted}, seed=settings.get("seed", 0)), banned)


def longest(settings: ChatSettings) -> int:
    """The most tokens of an answer. Raises RequestError for none, or for a setting that there isn't."""
    if unknown := settings.keys() - ChatSettings.__annotations__.keys():
        raise RequestError(f"a chat has no setting {min(unknown)!r}; it has {', '.join(ChatSettings.__annotations__)}")
    tokens = settings.get("max_new_tokens", MAX_NEW_TOKENS)
    if tokens < 1:
        raise RequestError(f"max_new_tokens={tokens} is below the fewest, 1")
    return tokens


def draw_answer(painter: Painter, question: Question, settings: ChatSettings) -> Result:
    """The picture that answers a question, drawn from the states of its tokens."""
    request = settings.get("request") or Request(prompt=question.prompt)
    wanted = replace(request, prompt=question.prompt, images=tuple(question.images))
    return painter.draw(wanted, question.states, request.negative_prompt, settings.get("on_step"))


def _said(tokens: Iterator[int], words: Words) -> Iterator[str]:
    """The text of tokens as it becomes certain, up to a stop text."""
    for token in tokens:
        if text := words.add(token):
            yield text
        if words.stopped:
            return
    if text := words.end():
        yield text
