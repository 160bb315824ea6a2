"""Questions that are asked together, and their answers: the rows of one batch, each answered as it would be alone.

A turn of a conversation is a batch of one. An answer that starts with the draw token makes a picture, guided by the hidden states
that reading the question gave. Knows the bundle's templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..checks import check_callback, check_text
from ..drawing import start_drawing
from ..errors import RequestError
from ..guidance import has_negative_prompt
from ..images.loading import ImageSource, load_images
from ..mllm.language_model import ImageFeatures, KVCache, States, Tokens
from ..mllm.prompt_encoder import PromptEncoder
from ..request import OnStep, Request, Result
from .arguments import check_sequence, check_texts
from .detokenizer import Detokenizer
from .settings import ChatSettings
from .token_generation import FinishReason, GenerationState, generate_tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatResult:
    """An answer.

    text: its words, without special tokens; empty if it is a picture.
    token_ids: as generated, the stop token included.
    images: its pictures.
    result: the drawing of the pictures, or None.
    finish_reason: "stop" where the model ended it, a stop text came, or it is a picture; "length" where it was cut at
        `max_new_tokens`; "context" where it was cut because the model's context is full; "cancelled" where the caller ended it.
    """

    text: str
    token_ids: tuple[int, ...]
    images: list[Image.Image]
    result: Result | None
    finish_reason: FinishReason = "stop"


class Segment(NamedTuple):
    """Ids to read. images: a picture for each image token among them; None for generated ids, of which none is an image token."""

    ids: Sequence[int]
    images: Sequence[Image.Image] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A question in the chat template.

    prompt: its text.
    images: the pictures shown with it.
    references: the pictures that a drawing starts from: those of the turn, or without any the last ones of the conversation.
    segments: the tokens to read: the end of the last answer, and the turn itself. Their hidden states guide a drawing.
    history: the tokens to read before them.
    """

    prompt: str
    images: Sequence[Image.Image]
    references: Sequence[Image.Image]
    segments: Sequence[Segment]
    history: Sequence[Segment] = ()


class Exchange:
    """Questions of several rows, read into a KV cache, and the generation of their answers.

    state: the answers under way.
    states: of each question, the hidden states (T, Dt) that guide a drawing.
    texts: of each answer so far.
    """

    def __init__(
        self, encoder: PromptEncoder, questions: Sequence[Question], settings: ChatSettings, cache: KVCache | None = None
    ) -> None:
        self._encoder = encoder
        self._questions = questions
        self._settings = settings
        chat = encoder.model.chat
        self._samplers = [settings.sampler(chat) for _ in questions]
        self.states, read = self._read(cache or KVCache.empty(len(questions)))
        self.state = GenerationState(read)
        self.texts = ["" for _ in questions]

    def pieces(self) -> Iterator[tuple[int, str]]:
        """Yields (row, text) as text becomes certain. May be left at any point."""
        model, settings = self._encoder.model, self._settings
        decoders = [Detokenizer(self._encoder.tokenizer.decode, settings.stop) for _ in self._questions]
        last_states = np.stack([states[-1] for states in self.states])
        stops, most = model.chat.stop_token_ids, settings.max_new_tokens
        for row, token in generate_tokens(model, self.state, last_states, self._samplers, stops, most):
            yield from self._release(row, decoders[row].add(token))
            if decoders[row].stopped:
                self.state.end(row, "stop")
        for row, decoder in enumerate(decoders):
            yield from self._release(row, decoder.end())

    def result(self, row: int, on_step: OnStep | None = None, is_complete: bool = True) -> ChatResult:
        """The answer of a row as far as it was generated; draws its picture if it is one and is complete."""
        ids, reason = tuple(self.state.answers[row]), self.state.finish_reasons[row] if is_complete else "cancelled"
        if ids[:1] != (self._encoder.model.chat.draw_token_id,):
            return ChatResult(text=self.texts[row], token_ids=ids, images=[], result=None, finish_reason=reason)
        result = self._draw(row, on_step) if is_complete else None
        images = result.images if result else []
        reason = "stop" if images else "cancelled"
        text = "" if images else self.texts[row]
        return ChatResult(text=text, token_ids=ids, images=images, result=result, finish_reason=reason)

    def _release(self, row: int, text: str) -> Iterator[tuple[int, str]]:
        if text:
            self.texts[row] += text
            yield row, text

    def _read(self, cache: KVCache) -> tuple[list[States], KVCache]:
        """Reads the questions. Returns for each the hidden states (T, Dt) of its segments, those of pictures left out."""
        history, rows, features = [], [], []
        for question in self._questions:
            before, before_features = self._tokens(question.history)
            tokens, own_features = self._tokens(question.segments)
            history.append(before)
            rows.append(tokens)
            features.append([*before_features, *own_features])
        whole = [before + tokens for before, tokens in zip(history, rows, strict=True)]
        states, extended = self._encoder.model.extend(cache, whole, features)
        own = [read[len(before) :] for read, before in zip(states, history, strict=True)]
        return [tokens.text_states(read) for tokens, read in zip(rows, own, strict=True)], extended

    def _tokens(self, segments: Sequence[Segment]) -> tuple[Tokens, list[ImageFeatures]]:
        model, tokens, features = self._encoder.model, Tokens(), list[ImageFeatures]()
        for ids, images in segments:
            encoded = [model.encode_image(image) for image in images or ()]
            tokens += Tokens.text(ids) if images is None else model.expand(ids, encoded)
            features += encoded
        return tokens, features

    def _draw(self, row: int, on_step: OnStep | None) -> Result:
        question, request = self._questions[row], self._settings.request or Request(prompt="")
        drawn = replace(request, prompt=question.prompt, images=tuple(question.references))
        return draw_from_states(self._encoder, drawn, self.states[row], on_step)


def draw_from_states(
    encoder: PromptEncoder, request: Request, states: States, on_step: OnStep | None = None
) -> Result:
    """Draw guided by hidden states (T, Dt) of a chat instead of the request's prompt.

    The negative prompt is read in the chat template, where it has the assistant's turn too.
    """

    def encode_branch(branch: str) -> States:
        if not has_negative_prompt(branch):
            return states
        template = encoder.model.chat.first_turn
        return encoder.encode(encoder.tokenizer.encode(template.replace("{prompt}", request.negative_prompt)))

    return start_drawing(encoder.model.components, request, encode_branch).finish(on_step)


def question_ids(encoder: PromptEncoder, template: str, prompt: str, image_numbers: Sequence[int]) -> list[int]:
    """The ids of a turn, an image token for each picture before its text.

    Raises RequestError for a prompt that is no valid text, and for image tokens in the text itself.
    """
    prompt = check_text("prompt", prompt)
    chat = encoder.model.chat
    tags = "".join(chat.image_tag.replace("{number}", str(number)) for number in image_numbers)
    ids = encoder.tokenizer.encode(template.replace("{prompt}", tags + prompt))
    extra = sum(number == chat.image_token_id for number in ids) - len(image_numbers)
    if extra > 0:
        raise RequestError(f"the prompt itself holds {extra} image tokens, without an image; give images apart from the text")
    return ids


def first_question(encoder: PromptEncoder, prompt: str, images: Sequence[ImageSource]) -> Question:
    """The question that begins a conversation."""
    pictures = load_images("images", images)
    ids = question_ids(encoder, encoder.model.chat.first_turn, prompt, range(1, len(pictures) + 1))
    return Question(prompt=prompt, images=pictures, references=pictures, segments=[Segment(ids, pictures)])


def answer_together(
    encoder: PromptEncoder,
    questions: Sequence[str],
    images: Sequence[Sequence[ImageSource]],
    settings: ChatSettings,
    on_step: OnStep | None = None,
) -> list[ChatResult]:
    """The answers to several questions in their order, each as a conversation of its own; pictures are drawn one after another.

    images: each question's, or empty. Raises RequestError or BundleError, for all of them at once.
    """
    texts = check_texts("prompts", questions)
    shown = check_sequence("images", images, "lists of images, one for each prompt") or ((),) * len(texts)
    if len(shown) != len(texts):
        raise RequestError(f"{len(shown)} lists of images were given for {len(texts)} prompts: give a list for each, or none")
    check_callback("on_step", on_step)
    if not texts:
        return []
    rows = [first_question(encoder, text, pictures) for text, pictures in zip(texts, shown, strict=True)]
    exchange = Exchange(encoder, rows, settings)
    for _ in exchange.pieces():
        pass
    return [exchange.result(row, on_step) for row in range(len(rows))]
