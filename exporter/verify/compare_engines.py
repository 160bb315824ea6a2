"""Engines beside the reference and beside ONNX Runtime, component by component, through polygraphy's comparator.

Every side is a backend, so that inputs of any precision reach it as it wants them; outputs are compared as float32. An engine has
several profiles: each is compared, on a sample that fits it.
"""

from __future__ import annotations

import math
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
from .difference import Difference, difference
from .torch_backend import TorchBackend

Outputs = Mapping[str, np.ndarray]
Sizes = dict[str, int]
Shapes = Mapping[str, Sequence[Sequence[int]]]
"""An input's smallest, typical and largest shape, by name."""

SUMS = {
    "joint_tokens": ("text_tokens", "reference_tokens", "image_tokens"),
    "total_tokens": ("past_tokens", "text_tokens"),
}
"""Sizes that are the sum of others."""
PRODUCTS = {"image_tokens": ("latent_height", "latent_width"), "patches": ("windows", "window_patches")}
"""Sizes that are in proportion to a product of others."""


class Engines(Backend, Protocol):
    """A backend whose components were built for profiles of shapes."""

    def profiles(self, component: str) -> Mapping[str, Shapes]:
        """What the component was built for, by profile."""


@dataclass(frozen=True, kw_only=True)
class OutputDifference:
    """How far an output is from another side's: of the L2 norm, relative. True where it is within tolerance.

    wanted, given: the two outputs, float32.
    """

    wanted: np.ndarray
    given: np.ndarray
    tolerance: float

    @property
    def relative_error(self) -> float:
        """The L2 norm of the difference over that of `wanted`, in float64."""
        return relative_error(self.wanted, self.given)

    def __bool__(self) -> bool:
        return self.relative_error <= self.tolerance


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A component's engine beside each other side, for each of its profiles: the worst output. notes: what was not compared."""

    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def engine_differences(
    component: Component, checkpoint: Checkpoint, bundle: Bundle, engines: Backend, threads: int | None = None
) -> Comparison:
    """A component's engine beside the reference and ONNX Runtime, for every profile that it was built for.

    engines: a backend that has `profiles`. A component without an engine is a note, as is a profile that no sample fits. Raises
    BackendError without polygraphy.
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
            "onnxruntime": onnx_runtime(bundle, engines.precision, threads),
            "tensorrt": engines,
        }
        result = compare_component(component, config, sides, engines.precision, **sizes)
        rows += [_worst(f"{label} / {beside}", row) for (beside, _), (row,) in result.items()]
    return Comparison(differences=tuple(rows), notes=tuple(notes))


def _worst(name: str, row: Mapping[str, OutputDifference]) -> Difference:
    rows = [difference(name, "component", found.wanted, found.given, found.tolerance) for found in row.values()]
    return max(rows, key=lambda entry: math.inf if math.isnan(entry.relative_error) else entry.relative_error)


def onnx_runtime(bundle: Bundle, precision: str, threads: int | None = None) -> Backend:
    """ONNX Runtime in the engines' precision, on the GPU if it can be; on a CPU in what the bundle holds of fp32 and fp16."""
    for name, wanted in (("ort-cuda", precision), ("ort-cpu", precision), ("ort-cpu", "auto")):
        try:
            return open_backend(bundle, name, wanted, threads)
        except BackendError as error:
            reason = error
    raise reason


def compare_component(
    component: Component, config: Any, backends: Mapping[str, Backend], precision: str, **sizes: int
) -> Any:
    """Run one component on each backend with the same random inputs, and compare the last with each before it.

    sizes: instead of the component's example sizes, where an engine's profile wants others. Gives polygraphy's
    AccuracyResult: for each pair of names, the outputs' OutputDifference.
    """
    try:
        from polygraphy.comparator import Comparator, IterationResult, RunResults
        from polygraphy.logger import G_LOGGER
    except ImportError as error:
        raise BackendError(f'polygraphy is missing ({error}): pip install "omnigen2-rt[tensorrt]"') from None

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
    def compare(wanted: Outputs, given: Outputs) -> OrderedDict[str, OutputDifference]:
        return OrderedDict(
            (name, OutputDifference(wanted=wanted[name], given=given[name], tolerance=tolerance)) for name in wanted
        )

    return compare


def fitting_sizes(component: Component, config: Any, shapes: Shapes) -> Sizes | None:
    """The component's example sizes, moved into a profile's ranges as little as need be; None where that can't be done."""
    ranges: dict[str, tuple[int, int]] = {}
    for name, spec in component.inputs(config).items():
        least, _, most = shapes[name]
        for dim, *ends in zip(spec.shape, least, most, strict=True):
            if isinstance(dim, str):
                ranges[dim] = (ends[0], ends[1])
    sizes = {dim: min(max(component.sizes[dim], least), most) for dim, (least, most) in ranges.items()}
    for whole, (one, other) in PRODUCTS.items():
        if sizes.keys() >= {whole, one, other}:
            share = component.sizes[whole] / (component.sizes[one] * component.sizes[other])
            if sizes[one] * sizes[other] * share > ranges[whole][1]:
                sizes[one], sizes[other] = ranges[one][0], ranges[other][0]
            sizes[whole] = round(sizes[one] * sizes[other] * share)
    for whole, parts in SUMS.items():
        if sizes.keys() >= {whole, *parts}:
            sizes[whole] = sum(sizes[part] for part in parts)
    fits = all(least <= sizes[dim] <= most for dim, (least, most) in ranges.items())
    return sizes if fits else None


def relative_error(wanted: np.ndarray, given: np.ndarray) -> float:
    """The L2 norm of the difference over that of `wanted`, in float64."""
    a, b = wanted.astype(np.float64), given.astype(np.float64)
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(a)), 1e-12))


def all_within(results: Sequence[Any]) -> bool:
    """Whether every output of every comparison is within tolerance."""
    return all(bool(result) for result in results)
