"""Talking: turns of a conversation, each answered in words or with a picture.

An answer that starts with the draw token makes a picture from the hidden states that reading the turn already gave.
What was read stays in the cache between turns, so a turn costs only its own tokens. Knows the bundle's templates and
asks the pipeline to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .bundle import ChatFacts
from .denoiser import OnStep
from .errors import RequestError
from .generation import Chooser, Sampling, Writing, pieces, write
from .images import ImageSource, load_image
from .language_model import Context, LanguageModel, Seen
from .request import Request, Result
from .tokenizer import Tokenizer

OnToken = Callable[[str], object]
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")


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


class Painter(Protocol):
    """What a chat needs of the pipeline in order to draw."""

    def draw(self, request: Request, cond: NDArray[np.float32], negative: str, on_step: OnStep | None) -> Result:
        """Draw `request` guided by the hidden states `cond` (T, Dt), against a negative turn of this text."""


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """A turn that was read and is being answered."""

    prompt: str
    states: NDArray[np.float32]  # (T, Dt) of its tokens, image tokens left out
    images: list[Image.Image]
    writing: Writing


class Chat:
    """A conversation. A turn that fails leaves it as it was; one that is cancelled keeps what was said until then."""

    def __init__(self, model: LanguageModel, tokenizer: Tokenizer, painter: Painter) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._painter = painter
        self._context = Context()
        self._unread: list[int] = []
        self._made: list[Image.Image] = []
        self.images: list[Image.Image] = []
        """Every picture of the conversation, given or made, in the order of their numbers."""

    def ask(
        self,
        prompt: str,
        images: Sequence[ImageSource] = (),
        *,
        request: Request | None = None,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
        on_token: OnToken | None = None,
        on_step: OnStep | None = None,
        may_draw: bool = True,
        stop: Sequence[str] = (),
    ) -> ChatResult:
        """One turn. A picture that the turn before made is shown along with `images`, to be asked about or edited.

        request: how to draw, if the answer is a picture; its prompt and images are the conversation's. Sampling settings
        of None are the checkpoint's own. on_token(text), on_step(step): returning False stops. may_draw: let the answer be
        a picture. stop: texts that end an answer. Raises RequestError or BundleError.
        """
        wanted = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "repetition_penalty": repetition_penalty}
        sampling = _sampling(self._facts, seed, wanted)
        if max_new_tokens < 1:
            raise RequestError(f"max_new_tokens={max_new_tokens} is below the fewest, 1")
        turn = self._read(prompt, [load_image(image) for image in images])
        banned = [] if may_draw or self._facts.draw_token_id is None else [self._facts.draw_token_id]
        tokens = self._write(turn, Chooser(sampling, banned), max_new_tokens)
        text = _collect(pieces(self._tokenizer, tokens), on_token, stop)
        ids = turn.writing.ids
        result = self._draw(turn, request, on_step) if ids[:1] == [self._facts.draw_token_id] else None
        self._keep(turn, result)
        made = result.images if result else []
        return ChatResult(text=text, token_ids=tuple(ids), images=made, result=result)

    def stream(
        self, prompt: str, images: Sequence[ImageSource] = (), *, max_new_tokens: int = 256, seed: int = 0
    ) -> Iterator[str]:
        """The words of an answer as they come, never a picture. Leaving the iterator early cancels the rest."""
        turn = self._read(prompt, [load_image(image) for image in images])
        banned = [] if self._facts.draw_token_id is None else [self._facts.draw_token_id]
        tokens = self._write(turn, Chooser(_sampling(self._facts, seed, {}), banned), max_new_tokens)
        try:
            yield from pieces(self._tokenizer, tokens)
        finally:
            self._keep(turn, None)

    @property
    def read_tokens(self) -> int:
        """How many tokens of the conversation are in the cache."""
        return len(self._context.ids)

    @property
    def _facts(self) -> ChatFacts:
        return self._model.chat_facts

    def _read(self, prompt: str, given: list[Image.Image]) -> _Turn:
        images = [*self._made, *given]
        numbers = range(len(self.images) - len(self._made) + 1, len(self.images) + len(given) + 1)
        template = self._facts.next_turn if self._context.ids else self._facts.first_turn
        tags = "".join(self._facts.image_tag.replace("{number}", str(number)) for number in numbers)
        ids = self._tokenizer.encode(template.replace("{prompt}", tags + prompt))
        _expect_images(ids, len(images), self._facts.image_token_id)
        seen: list[Seen] = [self._model.look(image) for image in images]
        expanded = [*self._unread, *self._model.expand(ids, seen)]
        states, context = self._model.read(self._context, expanded, seen)
        text_only = np.array(expanded) != self._facts.image_token_id
        return _Turn(prompt=prompt, states=states[text_only], images=images, writing=Writing(context, []))

    def _write(self, turn: _Turn, chooser: Chooser, max_new_tokens: int) -> Iterator[int]:
        return write(self._model, turn.writing, turn.states[-1], chooser, self._facts.stop_token_ids, max_new_tokens)

    def _draw(self, turn: _Turn, request: Request | None, on_step: OnStep | None) -> Result:
        settings = request or Request(prompt=turn.prompt)
        wanted = replace(settings, prompt=turn.prompt, images=tuple(turn.images))
        return self._painter.draw(wanted, turn.states, settings.negative_prompt, on_step)

    def _keep(self, turn: _Turn, result: Result | None) -> None:
        """The turn becomes part of the conversation. Its last token waits to be read, unless the template will say it."""
        given = turn.images[len(self._made) :]
        self._made = list(result.images) if result else []
        self.images += [*given, *self._made]
        self._context = turn.writing.context
        last = turn.writing.ids[-1:]
        said = self._facts.next_turn.startswith(self._tokenizer.decode(last, skip_special=False)) if last else True
        self._unread = [] if said else last


def _expect_images(ids: Sequence[int], images: int, image_token_id: int) -> None:
    tokens = sum(number == image_token_id for number in ids)
    if tokens > images:
        raise RequestError(
            f"the prompt itself holds {tokens - images} image tokens, without an image; give images apart from the text"
        )


def _sampling(facts: ChatFacts, seed: int, wanted: dict[str, float | None]) -> Sampling:
    stored: dict[str, Any] = {name: getattr(facts, name) for name in SAMPLING}
    chosen = {name: value for name, value in wanted.items() if value is not None}
    return Sampling(**{**stored, **chosen}, seed=seed)


def _collect(parts: Iterator[str], on_token: OnToken | None, stop: Sequence[str]) -> str:
    """All the text, or what there is when on_token returns False or a stop text appears."""
    text = ""
    for part in parts:
        text += part
        found = [text.index(end) for end in stop if end in text]
        if found:
            return text[: min(found)]
        if on_token is not None and on_token(part) is False:
            return text
    return text
