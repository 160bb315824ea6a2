"""Choosing words: one token after another, greedily or drawn at random, until a stop token, a stop text or a limit.

Follows transformers' generation (repetition penalty, temperature, top-k, top-p, in this order). The random numbers are
numpy's, so the same seed gives the same words here, and others than in PyTorch. Several answers may be written side by
side, each as it would be alone. Knows nothing of templates and of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from ..mllm.language_model import Context, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How words are chosen. temperature: 0 is greedy; top_k 0 and top_p 1 cut nothing. Raises RequestError out of range."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        allowed = {
            "temperature": (self.temperature >= 0, "0 or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "top_k": (self.top_k >= 0, "0 or more"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (fits, range_) in allowed.items():
            if not fits:
                raise RequestError(f"{name}={getattr(self, name)} is out of range; it must be {range_}")


class Chooser:
    """Picks the next token. banned: tokens that are never picked."""

    def __init__(self, sampling: Sampling, banned: Sequence[int] = ()) -> None:
        self._sampling = sampling
        self._banned = list(banned)
        self._random = np.random.default_rng(sampling.seed)

    def choose(self, logits: NDArray[np.float32], ids: Sequence[int]) -> int:
        """The token after `ids`, whose logits these are: (vocabulary) float32."""
        scores = penalised(logits, ids, self._sampling.repetition_penalty)
        scores[self._banned] = -np.inf
        if self._sampling.temperature == 0:
            return int(scores.argmax())
        chances = probabilities(scores, self._sampling)
        return int(self._random.choice(len(chances), p=chances))


def penalised(logits: NDArray[np.float32], ids: Sequence[int], penalty: float) -> NDArray[np.float32]:
    """A copy in which every token that already occurs is less likely."""
    scores = logits.copy()
    seen = np.unique(np.asarray(ids, np.int64))
    scores[seen] = np.where(scores[seen] < 0, scores[seen] * np.float32(penalty), scores[seen] / np.float32(penalty))
    return scores


def probabilities(scores: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """The chances that temperature, top-k and top-p leave to each token; they sum to 1."""
    scaled = scores.astype(np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(scaled):
        scaled[scaled < np.partition(scaled, -sampling.top_k)[-sampling.top_k]] = -np.inf
    chances = np.exp(scaled - scaled.max())
    chances /= chances.sum()
    order = np.argsort(-chances, kind="stable")
    before = np.cumsum(chances[order]) - chances[order]
    chances[order[before >= sampling.top_p]] = 0
    kept: NDArray[np.float64] = chances / chances.sum()
    return kept


class Writing:
    """Answers as they grow, one to each row of `context`, which has read all of them but, at most, their last tokens.

    unfinished: the rows that are still written; taking one out ends its answer.
    """

    def __init__(self, context: Context) -> None:
        self._before = [len(row) for row in context.rows]
        self.context = context
        self.answers: list[list[int]] = [[] for _ in context.rows]
        self.unfinished = set(range(len(context.rows)))

    def unread(self, row: int = 0) -> list[int]:
        """The end of an answer that the context hasn't read."""
        return self.answers[row][len(self.context.rows[row]) - self._before[row] :]


def write(
    model: LanguageModel,
    writing: Writing,
    hidden_states: NDArray[np.float32],
    choosers: Sequence[Chooser],
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
) -> Iterator[tuple[int, int]]:
    """(row, token) of the answers, each token appended to its answer first; an answer's last may be a stop token.

    hidden_states: (B, Dt) of each row's last token. The iterator may be left at any point: `writing` is then whole.
    """
    most = model.chat_facts.max_context_tokens
    while writing.unfinished:
        logits = model.logits(hidden_states)
        for row in sorted(writing.unfinished):
            answer, read = writing.answers[row], writing.context.rows[row]
            answer.append(choosers[row].choose(logits[row], read))
            if answer[-1] in stop_token_ids or len(answer) >= max_new_tokens or len(read) >= most:
                writing.unfinished.discard(row)
            yield row, answer[-1]
        if writing.unfinished:
            new = [answer[-1:] if row in writing.unfinished else [] for row, answer in enumerate(writing.answers)]
            states, writing.context = model.read_rows(writing.context, new)
            hidden_states = np.stack([*map(_last, states, hidden_states)])


def _last(states: NDArray[np.float32], before: NDArray[np.float32]) -> NDArray[np.float32]:
    """A row's last hidden state; the one before where it read nothing, which nobody looks at."""
    last: NDArray[np.float32] = states[-1] if len(states) else before
    return last
