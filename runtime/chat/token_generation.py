"""Token generation: one token after another in every row of a KV cache, until a stop token or a limit.

The rows of a batch are generated side by side, each as it would be alone. Knows nothing of templates and of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from ..mllm.language_model import KVCache, LanguageModel, Tokens
from .sampling import Sampler


class GenerationState:
    """Answers under way, one for each row of `cache`. The cache has read all of their tokens but, at most, the last.

    answers: the tokens of each row's answer so far.
    unfinished: the rows that go on; taking one out ends its answer.
    """

    def __init__(self, cache: KVCache) -> None:
        self._prompt_lengths = [len(row) for row in cache.rows]
        self.cache = cache
        self.answers: list[list[int]] = [[] for _ in cache.rows]
        self.unfinished = set(range(len(cache.rows)))

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

    hidden_states: (B, Dt) of each row's last token. The iterator may be left at any point: `state` is whole then.
    """
    most = model.chat.max_context_tokens
    while state.unfinished:
        logits = model.logits(hidden_states)
        for row in sorted(state.unfinished):
            answer, read = state.answers[row], state.cache.rows[row]
            answer.append(samplers[row].sample(logits[row], read))
            if answer[-1] in stop_token_ids or len(answer) >= max_new_tokens or len(read) >= most:
                state.unfinished.discard(row)
            yield row, answer[-1]
        if state.unfinished:
            new = [answer[-1:] if row in state.unfinished else [] for row, answer in enumerate(state.answers)]
            states, state.cache = model.extend(state.cache, [Tokens.text(ids) for ids in new])
            hidden_states = np.stack([*map(_last, states, hidden_states)])


def _last(states: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row's last hidden state; for a finished row, which read nothing, the one before: it is not used."""
    last: NDArray[np.float32] = states[-1] if len(states) else before
    return last
