"""The user's interrupt: a flag that a running node asks for."""

from __future__ import annotations


class InterruptProcessingException(BaseException):
    """Raised in a node that is interrupted. In newer versions no `except Exception` catches it; in 0.3.64 it is an Exception."""


_interrupted = False


def interrupt_current_processing(value: bool = True) -> None:
    """Set or clear the flag."""
    global _interrupted
    _interrupted = value


def throw_exception_if_processing_interrupted() -> None:
    """Raise once if the flag is set, and clear it."""
    if _interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException
