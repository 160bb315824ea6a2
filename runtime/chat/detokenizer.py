"""Tokens to text as it becomes certain: whole characters, and nothing of a text that ends the answer.

Knows a tokenizer, and nothing of the model that chose the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import RequestError

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Decoder(Protocol):
    """What a tokenizer does here."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that form no character become U+FFFD."""


class Words:
    """The words of one answer, a token at a time. `stopped`: a stop text came; what it was and what follows is not said.

    stop: texts that end the answer. Raises RequestError for an empty one.
    """

    def __init__(self, tokenizer: Decoder, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str) or not all(stop):
            raise RequestError(f"stop={stop!r} is not a list of texts, each of at least a character")
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._undecoded: list[int] = []
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that this token makes certain; often the token's own, sometimes none."""
        self._undecoded.append(token)
        text = self._tokenizer.decode(self._undecoded)
        if text.endswith(UNFINISHED):  # perhaps the first bytes of a character
            return ""
        self._undecoded.clear()
        return self._release(text)

    def end(self) -> str:
        """What is left when no token follows."""
        certain = self._release(self._tokenizer.decode(self._undecoded))
        rest, self._held = self._held, ""
        self._undecoded.clear()
        return certain + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        found = [self._held.index(end) for end in self._stop if end in self._held]
        if found:
            self.stopped = True
            certain, self._held = self._held[: min(found)], ""
            return certain
        kept = len(self._held) - max((_begun(self._held, end) for end in self._stop), default=0)
        certain, self._held = self._held[:kept], self._held[kept:]
        return certain


def _begun(text: str, end: str) -> int:
    """How many characters at the end of `text` may be the beginning of `end`."""
    return next((n for n in range(min(len(text), len(end) - 1), 0, -1) if text.endswith(end[:n])), 0)
