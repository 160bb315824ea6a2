"""The protocol of backends: they open a bundle's graphs as sessions and hold the arrays that flow between them.

An array on a backend's device is opaque to everything else; numpy arrays go in anywhere, and `to_host` returns them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from ..dtypes import PRECISIONS
from ..errors import BackendError
from ..manifest import GraphSpec

DeviceArray = Any
"""An array on the backend's device, of the backend's own type. Only that backend looks into it."""


class Session(Protocol):
    """An opened graph."""

    def run(self, feeds: Mapping[str, DeviceArray | np.ndarray]) -> dict[str, DeviceArray]:
        """Run the graph. Numpy feeds are cast to the graph's input types; outputs stay on the device.

        Raises BackendError where an input is missing, unknown or of the wrong rank, or the engine fails.
        """


class Backend(Protocol):
    """Opens graphs of one bundle in one precision, on one device.

    precision: what it computes in.
    graph_precision: which of the bundle's graphs it opens, and so the type of inputs and outputs; an engine may compute a graph
        in fewer bits than the graph states.
    """

    name: str
    precision: str
    graph_precision: str

    def open(self, component: str) -> Session:
        """Load a component's graph and weights. Raises BundleError where the bundle has no such graph."""

    def to_device(self, array: np.ndarray, dtype: str = "float32") -> DeviceArray:
        """Copy an array to the device as `dtype`, a numpy name or "bfloat16"."""

    def to_host(self, array: DeviceArray) -> np.ndarray:
        """A float32, int64 or bool array of the device as numpy."""


def check_names(graph: GraphSpec, feeds: Mapping[str, Any]) -> None:
    """Raises BackendError unless `feeds` has exactly the graph's inputs."""
    if feeds.keys() != graph.inputs.keys():
        wrong = sorted(feeds.keys() ^ graph.inputs.keys())
        raise BackendError(f"{graph.component} takes {', '.join(graph.inputs)}; missing or unknown: {wrong}")


def resident_bytes(graph: GraphSpec, precision: str) -> int:
    """The bytes of a graph's weights in a backend that computes in `precision`."""
    computed = graph.resident_bytes - graph.rounded_bytes
    return graph.rounded_bytes + computed * PRECISIONS[precision].itemsize // PRECISIONS[graph.precision].itemsize
