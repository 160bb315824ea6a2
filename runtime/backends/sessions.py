"""The components of a pipeline: opened when first run, kept open, and closed again where memory is limited.

Knows what a backend is and how large each component's weights are, and nothing of what the components compute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..bundle import Bundle
from ..errors import RequestError
from .backend import Backend, DeviceArray, Session, resident_bytes


@dataclass(frozen=True, kw_only=True)
class Opening:
    """One opening of a component.

    resident_bytes: its weights.
    seconds: the time it took.
    closed: the components that were closed to make room.
    """

    component: str
    resident_bytes: int
    seconds: float
    closed: tuple[str, ...]


class Sessions:
    """Open sessions by component name, least recently used first. Runs that several threads ask for take place one after another.

    memory_limit_bytes: keep the weights of open components below this; the least recently used are closed. A component that is
    larger than that alone is opened all the same: the backend then streams its weights.
    lender: the sessions of another bundle, which run the components that both bundles have alike.
    openings: every opening so far, in order. More than one of a component is what a memory limit costs.
    most_bytes: the most weights that were open at once.
    """

    def __init__(
        self, bundle: Bundle, backend: Backend, memory_limit_bytes: int | None = None, lender: Sessions | None = None
    ) -> None:
        self._bundle = bundle
        self._backend = backend
        self._limit = memory_limit_bytes
        self._lender = lender
        self._lent = frozenset() if lender is None else _common_components(bundle, lender._bundle, backend.graph_precision)
        self._open: dict[str, Session] = {}
        self._is_closed = False
        self._lock = threading.Lock()
        self.openings: list[Opening] = []
        self.most_bytes = 0

    def run(self, component: str, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """Run a component, opening it if need be. Raises BundleError or BackendError where that can't be done."""
        if self._is_closed:
            raise RequestError("this pipeline was closed at the end of its `with` block: load the bundle again")
        if self._lender is not None and component in self._lent:
            return self._lender.run(component, feeds)
        with self._lock:
            session = self._open.pop(component, None)
            if session is None:
                session = self._opening(component)
            self._open[component] = session
            return session.run(feeds)

    def close(self, for_good: bool = False) -> None:
        """Close every session, also the lender's unless it is for good. The next run opens it again, or raises RequestError
        after closing for good.
        """
        self._is_closed = self._is_closed or for_good
        self._open.clear()
        if self._lender is not None and not for_good:
            self._lender.close()

    @property
    def open_components(self) -> tuple[str, ...]:
        """The open components, least recently used first."""
        return tuple(self._open)

    def _opening(self, component: str) -> Session:
        started = time.perf_counter()
        closed = self._make_room(component)
        session = self._backend.open(component)
        seconds, size = time.perf_counter() - started, self._size(component)
        self.openings.append(Opening(component=component, resident_bytes=size, seconds=seconds, closed=closed))
        self.most_bytes = max(self.most_bytes, size + sum(map(self._size, self._open)))
        return session

    def _make_room(self, component: str) -> tuple[str, ...]:
        closed: list[str] = []
        if self._limit is None:
            return ()
        needed = self._size(component)
        while self._open and needed + sum(map(self._size, self._open)) > self._limit:
            oldest = next(iter(self._open))
            del self._open[oldest]
            closed.append(oldest)
        return tuple(closed)

    def _size(self, component: str) -> int:
        graph = self._bundle.graph(component, self._backend.graph_precision)
        return resident_bytes(graph, self._backend.precision)


def _common_components(bundle: Bundle, other: Bundle, precision: str) -> frozenset[str]:
    """The components whose graphs and weights are the same in both bundles."""
    files = {(spec.file, spec.sha256) for spec in bundle.manifest.files}
    if not files >= {(spec.file, spec.sha256) for spec in other.manifest.files}:
        return frozenset()
    graphs = {(graph.file, graph.sha256, graph.inlined_sha256) for graph in other.manifest.graphs}
    own = [graph for graph in bundle.manifest.graphs if graph.precision == precision]
    return frozenset(graph.component for graph in own if (graph.file, graph.sha256, graph.inlined_sha256) in graphs)
