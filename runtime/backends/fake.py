"""A backend without an engine, for tests and plans: it opens any component and records what is opened and run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ..dtypes import numpy_dtype
from .backend import DeviceArray, Session

Feeds = Mapping[str, DeviceArray | np.ndarray]
Respond = Callable[[str, Feeds], dict[str, DeviceArray]]
"""The outputs of a component for its inputs."""


class FakeBackend:
    """Answers every run with `respond(component, feeds)`, by default with no outputs.

    opened: the components in the order in which they were opened.
    runs: likewise, of every run.
    """

    name = "fake"

    def __init__(
        self,
        precision: str = "fp32",
        graph_precision: str | None = None,
        respond: Respond = lambda component, feeds: {},
    ) -> None:
        self.precision = precision
        self.graph_precision = graph_precision or precision
        self.opened: list[str] = []
        self.runs: list[str] = []
        self._respond = respond

    def open(self, component: str) -> Session:
        """See Backend.open."""
        self.opened.append(component)
        return _FakeSession(self, component)

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """See Backend.to_device."""
        return array.astype(numpy_dtype(dtype))

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """See Backend.to_host."""
        return np.asarray(array)

    def answer(self, component: str, feeds: Feeds) -> dict[str, DeviceArray]:
        """Note a run and return its outputs."""
        self.runs.append(component)
        return self._respond(component, feeds)


class _FakeSession:
    def __init__(self, backend: FakeBackend, component: str) -> None:
        self._backend = backend
        self._component = component

    def run(self, feeds: Feeds) -> dict[str, DeviceArray]:
        return self._backend.answer(self._component, feeds)
