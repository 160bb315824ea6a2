"""The components of a pipeline: opened when first run, kept open, and closed again where memory is limited.

Knows what a backend is and how large each component's weights are, and nothing of what the components compute.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .backends import Backend, DeviceArray, Session
from .bundle import Bundle


class Sessions:
    """Open sessions by component name, least recently used first.

    memory_limit_bytes: keep the weights of open components below this; the least recently used are closed. One component that
    is larger than that alone is opened all the same: the backend then streams its weights.
    """

    def __init__(self, bundle: Bundle, backend: Backend, memory_limit_bytes: int | None = None) -> None:
        self._bundle = bundle
        self._backend = backend
        self._limit = memory_limit_bytes
        self._open: dict[str, Session] = {}
        self.opened = 0
        """How often a component was opened: what a memory limit costs."""

    def run(self, component: str, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """Run a component, opening it if need be. Raises BundleError or BackendError where that can't be done."""
        session = self._open.pop(component, None)
        if session is None:
            self._make_room(component)
            session = self._backend.open(component)
            self.opened += 1
        self._open[component] = session
        return session.run(feeds)

    def close(self) -> None:
        """Close every session; the next run opens them again."""
        self._open.clear()

    @property
    def open_components(self) -> tuple[str, ...]:
        """The open components, least recently used first."""
        return tuple(self._open)

    def _make_room(self, component: str) -> None:
        if self._limit is None:
            return
        needed = self._size(component)
        while self._open and needed + sum(map(self._size, self._open)) > self._limit:
            oldest = next(iter(self._open))
            del self._open[oldest]

    def _size(self, component: str) -> int:
        return self._bundle.graph(component, self._backend.precision).resident_bytes


def needs_streaming(bundle: Bundle, precision: str, memory_limit_bytes: int | None) -> bool:
    """Whether some component alone is larger than the limit, so that its weights must be read at every run."""
    if memory_limit_bytes is None:
        return False
    sizes = (graph.resident_bytes for graph in bundle.manifest.graphs if graph.precision == precision)
    return max(sizes) > memory_limit_bytes
