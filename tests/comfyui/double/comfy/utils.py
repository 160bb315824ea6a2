"""The progress bar of a node, shown by a hook."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_hook: Callable[..., object] | None = None


def set_progress_bar_global_hook(function: Callable[..., object]) -> None:
    """Set what every progress bar calls: function(value, total, preview, node_id=None)."""
    global _hook
    _hook = function


class ProgressBar:
    """The progress of a node."""

    def __init__(self, total: int, node_id: str | None = None) -> None:
        self.total = total
        self.node_id = node_id

    def update_absolute(self, value: int, total: int | None = None, preview: tuple[str, Any, int] | None = None) -> None:
        """Show `value` of the total, and a preview: its file format, the picture, and the largest side at which it is shown."""
        if _hook is not None:
            _hook(min(value, self.total), self.total, preview, node_id=self.node_id)
