"""Token generation: one token after another in every row of a KV cache, until a stop token or a limit.

The rows of a batch are generated side by side, each as it would be alone. Knows nothing of templates and of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..mllm.language_model import KVCache, LanguageModel, Tokens
from .sampling import Sampler

FinishReason = Literal["stop", "length", "context", "cancelled"]
"""Why an answer ended.

stop: the model ended it, or a stop text came.
length: it has `max_new_tokens` tokens.
context: the model's context is full.
cancelled: the caller ended it.
"""


class GenerationState:
    """Answers under way, one for each row of `cache`. The cache has read all of their tokens but, at most, the last.

    answers: the tokens of each row's answer so far.
    unfinished: the rows that go on.
    finish_reasons: why each row's answer ended; "cancelled" while it goes on, for then only the caller can end it.
    """

    def __init__(self, cache: KVCache) -> None:
        self._prompt_lengths = [len(row) for row in cache.rows]
        self.cache = cache
        self.answers: list[list[int]] = [[] for _ in cache.rows]
        self.unfinished = set(range(len(cache.rows)))
        self.finish_reasons: list[FinishReason] = ["cancelled" for _ in cache.rows]

    def end(self, row: int, reason: FinishReason) -> None:
        """Let a row's answer go no further."""
        self.unfinished.discard(row)
        self.finish_reasons[row] = reason

    def unread(self, row: int = 0) -> list[int]:
        """The end of an answer that the cache hasn't read."""
        return self.answers[row][len(self.cache.rows[row]) - self._prompt_lengths[row] :]


def generate_tokens(
    model: LanguageModel,
    state: GenerationState,
    hidden_states: NDArray[np.float32],
    samplers: Sequence[Sampler],
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
) -> Iterator[tuple[int, int]]:
    """Yields (row, token), each token appended to its answer first; an answer's last may be a stop token.

    hidden_states: (B, Dt) of each row's last token. The iterator may be left at any point: `state` is whole then. Raises
    BackendError where the model computes values that aren't finite.
    """
    most = model.chat.max_context_tokens
    while state.unfinished:
        logits = model.logits(hidden_states)
        for row in sorted(state.unfinished):
            answer, read = state.answers[row], state.cache.rows[row]
            answer.append(samplers[row].sample(logits[row], read))
            if answer[-1] in stop_token_ids:
                state.end(row, "stop")
            elif len(answer) >= max_new_tokens:
                state.end(row, "length")
            elif len(read) >= most:
                state.end(row, "context")
            yield row, answer[-1]
        if state.unfinished:
            new = [answer[-1:] if row in state.unfinished else [] for row, answer in enumerate(state.answers)]
            states, state.cache = model.extend(state.cache, [Tokens.text(ids) for ids in new])
            hidden_states = np.stack([*map(_last, states, hidden_states)])


def _last(states: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row's last hidden state; for a finished row, which read nothing, the one before: it is not used."""
    last: NDArray[np.float32] = states[-1] if len(states) else before
    return last
