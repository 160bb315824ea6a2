"""Wraps a backend and passes every run's inputs and outputs to an observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ...runtime.backends import Backend, DeviceArray, Session

Arrays = Mapping[str, DeviceArray | np.ndarray]
Observer = Callable[[str, Arrays, Arrays], None]
"""Called after each run with the component, its inputs and its outputs."""


class ObservedBackend:
    """A backend that calls `observer` after every run of another one."""

    def __init__(self, backend: Backend, observer: Observer) -> None:
        self.name = backend.name
        self.precision = backend.precision
        self.graph_precision = backend.graph_precision
        self._backend = backend
        self._observer = observer

    def open(self, component: str) -> Session:
        """See Backend.open."""
        return _ObservedSession(component, self._backend.open(component), self._observer)

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        return self._backend.to_device(array, dtype)

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        return self._backend.to_host(array)


class _ObservedSession:
    def __init__(self, component: str, session: Session, observer: Observer) -> None:
        self._component = component
        self._session = session
        self._observer = observer

    def run(self, feeds: Arrays) -> dict[str, DeviceArray]:
        outputs = self._session.run(feeds)
        self._observer(self._component, feeds, outputs)
        return outputs
