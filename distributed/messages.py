"""Ray's own messages on their way to the user: each error becomes a short line of ours, said once.

Ray prints them with colours and its internals, also to standard output, and says most of them again for every worker.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..runtime.errors import one_line

Note = Callable[[str], object]
"""Called from any thread with a line for the user."""
MOST_LINES = 100
"""Lines that are said; a cluster that goes on failing fills no log."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
SERVE = "ray.serve"


@contextmanager
def routed_messages(ray: Any, note: Note) -> Iterator[None]:
    """Give the errors that Ray reports during the block to `note`; its warnings are left out."""
    says, logger, serve = _Once(note), logging.getLogger("ray"), logging.getLogger(SERVE)
    handlers, level = logger.handlers[:], logger.level
    serve.removeFilter(_no_record)
    handler, filter_ = _Handler(says), _Filter(says)
    logger.handlers[:] = [handler]
    serve.addFilter(filter_)  # Serve exchanges its handlers as it starts
    printing = getattr(ray._private.worker, "print_to_stdstream", None)
    if printing is not None:
        ray._private.worker.print_to_stdstream = lambda data, *words, **options: [*map(says, data["lines"])]
    try:
        yield
    finally:
        if printing is not None:
            ray._private.worker.print_to_stdstream = printing
        serve.removeFilter(filter_)
        logger.handlers[:] = handlers
        logger.setLevel(level)


def mute_serve() -> None:
    """Leave out what Serve's threads report: they outlive the connection, and miss it."""
    logging.getLogger(SERVE).filters.insert(0, _no_record)  # before the one that says errors


def _no_record(record: logging.LogRecord) -> bool:
    return False


class _Once:
    """Says the first sentence of each message, once."""

    def __init__(self, note: Note) -> None:
        self._note = note
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, text: str) -> None:
        sentence = one_line(" ".join(COLOURS.sub("", text).split()).partition(". ")[0])
        with self._lock:
            is_new = bool(sentence) and sentence not in self._said and len(self._said) < MOST_LINES
            self._said.add(sentence)
        if is_new:
            self._note(f"Ray: {sentence}")


class _Handler(logging.Handler):
    """Says errors in the place of Ray's own handlers."""

    def __init__(self, says: _Once) -> None:
        super().__init__(logging.ERROR)
        self._says = says

    def emit(self, record: logging.LogRecord) -> None:
        self._says(record.getMessage())


class _Filter(logging.Filter):
    """Says errors, and lets no record through."""

    def __init__(self, says: _Once) -> None:
        super().__init__()
        self._says = says

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.ERROR:
            self._says(record.getMessage())
        return False
