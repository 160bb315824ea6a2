"""An answer as it is generated, piece by piece. Knows nothing of the conversation that it belongs to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..errors import RequestError
from .exchange import ChatResult

Exclusive = Callable[[], AbstractContextManager[None]]
"""Opens a block in which nobody else works on the conversation. Raises RequestError where somebody does."""


class AnswerStream(Iterator[str]):
    """An answer as it is generated: iterate over its text, then call `finish`.

    A picture is drawn before the iterator ends. `close()` cancels; the conversation keeps what was generated until then.
    """

    def __init__(
        self, pieces: Iterator[tuple[int, str]], finish: Callable[[bool], ChatResult], exclusive: Exclusive
    ) -> None:
        self._pieces = pieces
        self._finish = finish
        self._exclusive = exclusive
        self._result: ChatResult | None = None
        self._failed = False

    @property
    def is_open(self) -> bool:
        """Whether there may be more to come: it is neither finished nor cancelled and hasn't failed."""
        return not self._failed and self._result is None

    def __next__(self) -> str:
        if not self.is_open:
            raise StopIteration
        with self._exclusive():
            piece = self._next_piece()
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        """Cancel what is left of the answer."""
        if self.is_open:
            with self._exclusive():
                self.end(is_complete=False)

    def discard(self) -> None:
        """Give up the answer: unless it is finished or closed, the conversation stays as it was before the question."""
        self._failed = self._failed or self._result is None

    def finish(self) -> ChatResult:
        """The whole answer, generated to its end; as far as it came if it was cancelled. Raises RequestError if it failed."""
        for _ in self:
            pass
        if self._result is None:
            raise RequestError("this answer failed; ask again")
        return self._result

    def end(self, is_complete: bool) -> None:
        """Make what was generated the answer. For the conversation, which has made sure that nobody else works on it."""
        self._result = self._finish(is_complete)

    def _next_piece(self) -> str | None:
        """The next piece; None at the end, where the answer is finished."""
        try:
            piece = next(self._pieces, None)
            if piece is None:
                self.end(is_complete=True)
        except KeyboardInterrupt:
            self.end(is_complete=False)
            raise
        except StopIteration as error:  # a callback's; it would end the caller's loop as if all were well
            self._failed = True
            raise RequestError("a callback raised StopIteration; the answer failed") from error
        except BaseException:
            self._failed = True
            raise
        return None if piece is None else piece[1]
