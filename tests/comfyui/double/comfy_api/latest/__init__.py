"""The newest version of the API."""

from __future__ import annotations

from abc import ABC, abstractmethod

from . import io

__all__ = ["ComfyExtension", "io"]


class ComfyExtension(ABC):
    """The base of what an entry point returns."""

    @abstractmethod
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """The extension's nodes."""
