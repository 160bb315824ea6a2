"""Engines beside ONNX Runtime and the reference, component by component, through polygraphy's comparator.

Every side is a backend, so that inputs of any precision reach it as it wants them; outputs are compared as float32.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.backends import Backend
from .components import Component

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """How far an output is from the first side's: of the L2 norm, relative. True where it is within tolerance."""

    relative_error: float
    tolerance: float

    def __bool__(self) -> bool:
        return self.relative_error <= self.tolerance


def compare_component(
    component: Component, config: Any, backends: Mapping[str, Backend], precision: str, **sizes: int
) -> Any:
    """Run one component on each backend with the same random inputs, and compare the others with the first.

    sizes: instead of the component's example sizes, where an engine's profile wants others. Gives polygraphy's
    AccuracyResult: for each pair of names, the outputs' OutputDifference.
    """
    from polygraphy.comparator import Comparator, IterationResult, RunResults
    from polygraphy.logger import G_LOGGER

    feeds = component.sample(config, **sizes)
    results = RunResults()
    for name, backend in backends.items():
        outputs = backend.open(component.name).run(feeds)
        host = {output: np.asarray(backend.to_host(value), np.float32) for output, value in outputs.items()}
        results.append((name, [IterationResult(outputs=host, runner_name=name)]))
    names = list(backends)
    pairs = [(0, index) for index in range(1, len(names))]
    compare = _within(component.tolerance[precision])
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):  # a library prints nothing
        (result,) = Comparator.compare_accuracy(results, compare_func=compare, comparisons=pairs)
    return result


def _within(tolerance: float) -> Any:
    def compare(wanted: Outputs, given: Outputs) -> OrderedDict[str, OutputDifference]:
        return OrderedDict(
            (name, OutputDifference(relative_error=relative_error(wanted[name], given[name]), tolerance=tolerance))
            for name in wanted
        )

    return compare


def relative_error(wanted: np.ndarray, given: np.ndarray) -> float:
    """The L2 norm of the difference over that of `wanted`, in float64."""
    a, b = wanted.astype(np.float64), given.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12))


def all_within(results: Sequence[Any]) -> bool:
    """Whether every output of every comparison is within tolerance."""
    return all(bool(result) for result in results)
