"""Prompts to hidden states: template, tokenizer and one pass of the language model; the last few are remembered.

Knows the bundle's templates and the language model's inputs. Sampling and pictures in prompts are not its business.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .backends import Backend, DeviceArray
from .bundle import Bundle
from .rope import mrope_tables, text_positions
from .sessions import Sessions
from .tokenizer import Tokenizer

REMEMBERED_PROMPTS = 16
"""A drawing needs two; at 1,024 tokens of the full model one takes 8 MB."""


class PromptEncoder:
    """Hidden states of drawing prompts, (T, Dt) float32 each, in the order of their tokens."""

    def __init__(self, bundle: Bundle, sessions: Sessions, backend: Backend) -> None:
        self._manifest = bundle.manifest
        self._sessions = sessions
        self._backend = backend
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
            self._remembered[key] = self._backend.to_host(self._hidden_states(key))[0]
            if len(self._remembered) > REMEMBERED_PROMPTS:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(key)
        return self._remembered[key]

    def _hidden_states(self, ids: Sequence[int]) -> DeviceArray:
        facts = self._manifest.mllm
        tokens = len(ids)
        tables = mrope_tables(text_positions(0, tokens), facts.head_width, facts.rope_theta, facts.mrope_section)
        embeds = self._sessions.run("token_embedding", {"input_ids": np.array([ids], np.int64)})["inputs_embeds"]
        empty = np.zeros((1, facts.kv_heads, 0, facts.head_width), np.float32)
        past = {f"past_{kind}_{k}": empty for kind in ("key", "value") for k in range(facts.layers)}
        mask = np.tri(tokens, dtype=bool)[None, None]
        feeds = {"inputs_embeds": embeds, "cos": tables.cos[None], "sin": tables.sin[None], "mask": mask, **past}
        self.runs += 1
        return self._sessions.run("language_model", feeds)["hidden_states"]
