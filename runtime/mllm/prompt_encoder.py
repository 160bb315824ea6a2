"""Prompts to hidden states: template, tokenizer and one pass of the language model; the last few are remembered.

Knows the bundle's drawing template. Sampling and pictures in prompts are not its business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from .language_model import LanguageModel, States
from .tokenizer import Tokenizer

REMEMBERED_PROMPTS = 16
"""A drawing needs two; at 1,024 tokens of the full model one takes 8 MB."""


class PromptEncoder:
    """Hidden states of drawing prompts, (T, Dt) float32 each, in the order of their tokens."""

    def __init__(self, model: LanguageModel) -> None:
        bundle = model.components.bundle
        self.model = model
        self.tokenizer = Tokenizer(bundle.path / bundle.manifest.tokenizer)
        self._template = bundle.manifest.prompts.drawing
        self._remembered: OrderedDict[tuple[int, ...], States] = OrderedDict()

    def token_ids(self, prompt: str, max_tokens: int | None = None) -> list[int]:
        """The ids of a prompt in the drawing template, cut on the right to `max_tokens`."""
        return self.tokenizer.encode(self._template.replace("{prompt}", prompt))[:max_tokens]

    def encode(self, ids: Sequence[int]) -> States:
        """The hidden states of these tokens: (T, Dt) float32. Not computed again for recent ones."""
        key = tuple(ids)
        states = self._remembered.pop(key, None)
        if states is None:
            states = self.model.encode_text(key)
        self._remembered[key] = states  # the latest comes last
        if len(self._remembered) > REMEMBERED_PROMPTS:
            self._remembered.popitem(last=False)
        return states

    def forget(self) -> None:
        """Drop the remembered prompts, for measurements that include encoding."""
        self._remembered.clear()
