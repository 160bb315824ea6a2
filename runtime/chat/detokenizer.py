"""Text from tokens, released as it becomes certain: whole characters, and nothing of a stop text.

Knows nothing of the model that generated the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer, a token at a time.

    decode: the text of ids; bytes that form no character become U+FFFD.
    stop: texts that end the answer and are not part of it.
    stopped: whether one came; neither it nor what follows is released.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stop = tuple(stop)
        self._undecoded: list[int] = []
        self._held = ""
        self.stopped = False

    def add(self, token: int) -> str:
        """The text that this token makes certain; often the token's own, sometimes none."""
        self._undecoded.append(token)
        text = self._decode(self._undecoded)
        if text.endswith(UNFINISHED):  # perhaps the first bytes of a character
            return ""
        self._undecoded.clear()
        return self._release(text)

    def end(self) -> str:
        """The text that is left when no token follows."""
        certain = self._release(self._decode(self._undecoded))
        rest, self._held = self._held, ""
        self._undecoded.clear()
        return certain + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        self._held += text
        stops = [self._held.index(end) for end in self._stop if end in self._held]
        if stops:
            self.stopped = True
            certain, self._held = self._held[: min(stops)], ""
            return certain
        kept = len(self._held) - max((_partial_stop(self._held, end) for end in self._stop), default=0)
        certain, self._held = self._held[:kept], self._held[kept:]
        return certain


def _partial_stop(text: str, end: str) -> int:
    """The number of characters at the end of `text` that may begin `end`."""
    return next((n for n in range(min(len(text), len(end) - 1), 0, -1) if text.endswith(end[:n])), 0)
