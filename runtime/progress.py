"""The progress callback of everything that takes long."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called before or after each piece of work. Where the caller may cancel, returning False does."""

    def __call__(self, done: int, total: int, what: str, /) -> object:
        """`done` of `total` pieces are done; `what` says which is under way."""


def no_progress(done: int, total: int, what: str, /) -> None:
    """Ignores progress: the default."""
