"""Compares engines with the reference and with ONNX Runtime, component by component, through polygraphy's comparator.

Every side is a backend, which converts inputs to its own precision; outputs are compared as float32. A component is compared for
each profile of its engine, on a sample that fits the profile.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from ...runtime.backends import Backend, open_backend
from ...runtime.bundle import Bundle
from ...runtime.errors import BackendError
from ..checkpoint import Checkpoint
from ..components import Component
from .difference import Difference, difference, relative_error, worst
from .torch_backend import TorchBackend

Outputs = Mapping[str, np.ndarray]
Sizes = dict[str, int]
ProfileShapes = Mapping[str, Sequence[Sequence[int]]]
"""An input's smallest, typical and largest shape, by name."""

SUMS = {
    "joint_tokens": ("text_tokens", "reference_tokens", "image_tokens"),
    "total_tokens": ("past_tokens", "text_tokens"),
}
"""Sizes that are sums of others."""
PRODUCTS = {"image_tokens": ("latent_height", "latent_width"), "patches": ("windows", "window_patches")}
"""Sizes that are proportional to a product of others."""


class Engines(Backend, Protocol):
    """A backend of engines that were built for profiles of shapes."""

    def profiles(self, component: str) -> Mapping[str, ProfileShapes]:
        """The shapes of each profile of a component's engine."""


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """An output on two sides, both float32. True where the error is within tolerance, as polygraphy expects."""

    expected: np.ndarray
    actual: np.ndarray
    tolerance: float

    @property
    def relative_error(self) -> float:
        return relative_error(self.expected, self.actual)

    def __bool__(self) -> bool:
        return self.relative_error <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A component's engine compared with each other side.

    differences: the worst output for each profile and side.
    notes: what was not compared, and why.
    """

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def compare_engine(
    component: Component, checkpoint: Checkpoint, bundle: Bundle, engines: Backend, threads: int | None = None
) -> Comparison:
    """Compare a component's engine with the reference and with ONNX Runtime, for every profile of the engine.

    engines: a backend that has `profiles`. A component without an engine becomes a note, as does a profile that no sample fits.
    Raises BackendError without polygraphy.
    """
    config = checkpoint.config_of(component)
    try:
        profiles = cast(Engines, engines).profiles(component.name)
    except BackendError as error:
        return Comparison(differences=(), notes=(f"{component.name} is not compared: {error}",))
    rows, notes = [], []
    for profile, shapes in profiles.items():
        label = component.name if len(profiles) == 1 else f"{component.name} ({profile})"
        sizes = fitting_sizes(component, config, shapes)
        if sizes is None:
            notes.append(f"{label} is not compared: no sample fits the profile")
            continue
        sides: dict[str, Backend] = {
            "reference": TorchBackend(checkpoint),
            "onnxruntime": open_onnx_runtime(bundle, engines.precision, threads),
            engines.name: engines,
        }
        results = compare_backends(component, config, sides, engines.precision, **sizes)
        rows += [_worst_output(f"{label} / {side}", outputs) for (side, _), (outputs,) in results.items()]
    return Comparison(differences=tuple(rows), notes=tuple(notes))


def _worst_output(name: str, outputs: Mapping[str, OutputDifference]) -> Difference:
    return worst(
        difference(name, "component", output.expected, output.actual, output.tolerance) for output in outputs.values()
    )


def open_onnx_runtime(bundle: Bundle, precision: str, threads: int | None = None) -> Backend:
    """ONNX Runtime, preferably on the GPU and in the engines' precision; else on the CPU in a precision that it runs."""
    for name, choice in (("ort-cuda", precision), ("ort-cpu", precision), ("ort-cpu", "auto")):
        try:
            return open_backend(bundle, name, choice, threads)
        except BackendError as error:
            reason = error
    raise reason


def compare_backends(
    component: Component, config: Any, backends: Mapping[str, Backend], precision: str, **sizes: int
) -> Any:
    """Run one component on each backend with the same random inputs, and compare the last backend with each other one.

    sizes: override the component's example sizes. Returns polygraphy's AccuracyResult: the outputs' OutputDifference for each
    pair of names.
    """
    try:
        from polygraphy.comparator import Comparator, IterationResult, RunResults
        from polygraphy.logger import G_LOGGER
    except ImportError as error:
        raise BackendError(f'polygraphy is missing ({error}): pip install polygraphy') from None

    feeds = component.sample(config, **sizes)
    results = RunResults()
    for name, backend in backends.items():
        outputs = backend.open(component.name).run(feeds)
        host = {output: np.asarray(backend.to_host(value), np.float32) for output, value in outputs.items()}
        results.append((name, [IterationResult(outputs=host, runner_name=name)]))
    last = len(backends) - 1
    pairs = [(index, last) for index in range(last)]
    compare = _within(component.tolerance[precision])
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):  # a library prints nothing
        (result,) = Comparator.compare_accuracy(results, compare_func=compare, comparisons=pairs)
    return result


def _within(tolerance: float) -> Any:
    def compare(expected: Outputs, actual: Outputs) -> OrderedDict[str, OutputDifference]:
        return OrderedDict(
            (name, OutputDifference(expected=expected[name], actual=actual[name], tolerance=tolerance)) for name in expected
        )

    return compare


def fitting_sizes(component: Component, config: Any, shapes: ProfileShapes) -> Sizes | None:
    """The component's example sizes, moved into a profile's ranges by the smallest change; None where they can't be."""
    ranges = _ranges(component, config, shapes)
    sizes = {dim: min(max(component.sizes[dim], smallest), largest) for dim, (smallest, largest) in ranges.items()}
    for whole, (one, other) in PRODUCTS.items():
        if sizes.keys() >= {whole, one, other}:
            share = component.sizes[whole] / (component.sizes[one] * component.sizes[other])
            if sizes[one] * sizes[other] * share > ranges[whole][1]:
                sizes[one], sizes[other] = ranges[one][0], ranges[other][0]
            sizes[whole] = round(sizes[one] * sizes[other] * share)
    for whole, parts in SUMS.items():
        if sizes.keys() >= {whole, *parts}:
            sizes[whole] = sum(sizes[part] for part in parts)
    fits = all(smallest <= sizes[dim] <= largest for dim, (smallest, largest) in ranges.items())
    return sizes if fits else None


def _ranges(component: Component, config: Any, shapes: ProfileShapes) -> dict[str, tuple[int, int]]:
    """The smallest and largest value of each dynamic size in a profile."""
    ranges: dict[str, tuple[int, int]] = {}
    for name, spec in component.inputs(config).items():
        smallest, _, largest = shapes[name]
        for dim, low, high in zip(spec.shape, smallest, largest, strict=True):
            if isinstance(dim, str):
                ranges[dim] = (low, high)
    return ranges
