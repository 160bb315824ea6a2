"""Values that stand for something else in a graph."""

from __future__ import annotations

from typing import Any


class ExecutionBlocker:
    """An output that keeps the nodes connected to it from running; a message makes that an error."""

    def __init__(self, message: str | None) -> None:
        self.message = message


def is_link(value: Any) -> bool:
    """Whether an input is connected: [node, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
