"""Choosing words: one token after another, greedily or drawn at random, until a stop token, a stop text or a limit.

Follows transformers' generation (repetition penalty, temperature, top-k, top-p, in this order). The random numbers are
numpy's, so the same seed gives the same words here, and others than in PyTorch. Knows nothing of templates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import RequestError
from .language_model import Context, LanguageModel
from .tokenizer import Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


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


@dataclass
class Writing:
    """An answer as it grows. `context` has read all of it but its last token."""

    context: Context
    ids: list[int]


def write(
    model: LanguageModel,
    writing: Writing,
    hidden_state: NDArray[np.float32],
    chooser: Chooser,
    stop_token_ids: Sequence[int],
    max_new_tokens: int,
) -> Iterator[int]:
    """Tokens of an answer, each appended to `writing.ids`; the last may be a stop token.

    hidden_state: (Dt) of the last token read. The iterator may be left at any point: `writing` is then whole.
    """
    most = model.chat_facts.max_context_tokens
    while len(writing.ids) < max_new_tokens:
        chosen = chooser.choose(model.logits(hidden_state), writing.context.ids)
        writing.ids.append(chosen)
        yield chosen
        if chosen in stop_token_ids or len(writing.ids) >= max_new_tokens or len(writing.context.ids) >= most:
            return
        hidden, writing.context = model.read(writing.context, [chosen])
        hidden_state = hidden[-1]


def pieces(tokenizer: Tokenizer, tokens: Iterator[int]) -> Iterator[str]:
    """The text of tokens as it becomes certain: a character is held back until all its bytes are there."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids.append(token)
        text = tokenizer.decode(ids)
        if not text.endswith(UNFINISHED) and len(text) > len(shown):
            yield text[len(shown) :]
            shown = text
    rest = tokenizer.decode(ids)[len(shown) :]
    if rest:
        yield rest
