"""Prompts to hidden states: template, tokenizer and one pass of the language model; the last few are remembered.

Knows the bundle's drawing template. Sampling and pictures in prompts are not its business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..bundle import Bundle
from .language_model import LanguageModel
from .tokenizer import Tokenizer

REMEMBERED_PROMPTS = 16
"""A drawing needs two; at 1,024 tokens of the full model one takes 8 MB."""


class PromptEncoder:
    """Hidden states of drawing prompts, (T, Dt) float32 each, in the order of their tokens."""

    def __init__(self, bundle: Bundle, model: LanguageModel) -> None:
        self._manifest = bundle.manifest
        self._model = model
        self.tokenizer = Tokenizer(bundle.path / bundle.manifest.tokenizer)
        self._remembered: OrderedDict[tuple[int, ...], NDArray[np.float32]] = OrderedDict()
        self.runs = 0
        """How often the language model ran."""

    def token_ids(self, prompt: str, max_tokens: int | None = None) -> list[int]:
        """The ids of a prompt in the drawing template, cut on the right to `max_tokens`."""
        return self.tokenizer.encode(self._manifest.prompts.drawing.replace("{prompt}", prompt))[:max_tokens]

    def encode(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """The hidden states of these tokens after the final norm: (T, Dt) float32. Not computed again if just asked for."""
        key = tuple(ids)
        if key not in self._remembered:
            self._remembered[key] = self._model.read_text(key)
            self.runs += 1
            if len(self._remembered) > REMEMBERED_PROMPTS:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(key)
        return self._remembered[key]
