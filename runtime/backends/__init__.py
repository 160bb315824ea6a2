"""The table of backends, one entry each, and the choice among them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from ..bundle import Bundle
from ..errors import BackendError
from . import ort
from .backend import Backend, DeviceArray, Session, resident_bytes
from .machine_limits import check_limits
from .openvino import backend as openvino_backend
from .openvino import library as openvino_library
from .sessions import Opening, Sessions
from .tensorrt import LIBRARIES
from .tensorrt.backend import TensorRTBackend
from .tensorrt.library import Library

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendEntry",
    "DeviceArray",
    "Opening",
    "Session",
    "Sessions",
    "check_limits",
    "choose_backend",
    "choose_graphs",
    "choose_precision",
    "exchange_arrays",
    "needs_streaming",
    "open_backend",
    "resident_bytes",
]


class Choice(NamedTuple):
    """A backend's parameters for one bundle.

    precision: what it computes in.
    graphs: which of the bundle's graphs it runs.
    threads: CPU threads; None: the engine decides.
    streams_weights: read weights at every run.
    memory_limit_bytes: the limit of open components' weights, for a backend that can stream a part of them.
    trust_engines: run compiled engines that this user neither built nor trusts.
    specialization: when kernels are compiled for a new shape, see `load`.
    """

    precision: str
    graphs: str
    threads: int | None
    streams_weights: bool
    memory_limit_bytes: int | None = None
    trust_engines: bool = False
    specialization: str = "lazy"


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """An entry of the table.

    precisions(threads): the precisions that it computes in, best first.
    problem(): why it can't work here, or None.
    create(bundle, choice): opens it.
    graphs: for a precision, which of a bundle's graphs it may be computed from, best first; by default its own.
    quantized: the precisions of the quantized graphs that it runs; None: every precision's.
    can_stream_weights: whether it runs a component whose weights are larger than the memory limit.
    exchanges_arrays: whether sessions of one such backend take arrays of another's.
    least_weight_bytes: "auto" prefers other backends for a bundle whose largest component is smaller.
    """

    precisions: Callable[[int | None], tuple[str, ...]]
    problem: Callable[[], str | None]
    create: Callable[[Bundle, Choice], Backend]
    graphs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    quantized: tuple[str, ...] | None = None
    can_stream_weights: bool = True
    exchanges_arrays: bool = True
    least_weight_bytes: int = 0


def _ort(name: str) -> BackendEntry:
    def create(bundle: Bundle, choice: Choice) -> Backend:
        return ort.OrtBackend(bundle, name, choice.precision, choice.threads, choice.streams_weights)

    return BackendEntry(
        precisions=lambda threads: ort.PRECISIONS[name],
        problem=partial(ort.problem, name),
        create=create,
        quantized=ort.QUANTIZED,
    )


def _openvino() -> BackendEntry:
    def create(bundle: Bundle, choice: Choice) -> Backend:
        pads = choice.memory_limit_bytes is None
        return openvino_backend.OpenVINOBackend(bundle, choice.precision, choice.graphs, choice.threads, pads=pads)

    return BackendEntry(
        precisions=openvino_library.precisions,
        problem=openvino_library.problem,
        create=create,
        graphs=openvino_backend.GRAPHS,
        can_stream_weights=False,
        least_weight_bytes=50_000_000,  # tried: a model of 1 MB takes 1.2 s instead of 0.5 s, one of 480 MB half the time
    )


def _tensorrt(library: Library) -> BackendEntry:
    def create(bundle: Bundle, choice: Choice) -> Backend:
        return TensorRTBackend(
            library,
            bundle,
            choice.precision,
            choice.streams_weights,
            choice.memory_limit_bytes,
            choice.trust_engines,
            choice.specialization,
        )

    return BackendEntry(
        precisions=lambda threads: library.precisions,
        problem=library.problem,
        create=create,
        exchanges_arrays=False,  # they are in the order of a backend's own stream
    )


BACKENDS: dict[str, BackendEntry] = {
    "ort-cuda": _ort("ort-cuda"),
    "openvino": _openvino(),
    "ort-cpu": _ort("ort-cpu"),
    **{library.name: _tensorrt(library) for library in LIBRARIES.values()},
}
"""The order is that in which "auto" tries them. TensorRT comes last: `omnigen2 build` has to build its engines first."""


def open_backend(
    bundle: Bundle,
    backend: str,
    precision: str,
    threads: int | None = None,
    memory_limit_bytes: int | None = None,
    trust_engines: bool = False,
    specialization: str = "lazy",
) -> Backend:
    """A backend for a bundle; "auto" takes the first that works here and runs the bundle in `precision` within the limit.

    Raises BackendError with what is allowed, or with what to install.
    """
    check_limits(memory_limit_bytes=memory_limit_bytes, threads=threads)
    named = [choose_backend(backend)] if backend != "auto" else _working(bundle)
    problems: list[str] = []
    for name in named:
        try:
            choice = _choose(bundle, name, precision, threads, memory_limit_bytes)
            return BACKENDS[name].create(bundle, choice._replace(trust_engines=trust_engines, specialization=specialization))
        except BackendError as error:
            problems.append(str(error))
    raise BackendError("; ".join(problems))


def exchange_arrays(first: Backend, second: Backend) -> bool:
    """Whether sessions of two backends take each other's arrays."""
    names = {(each.name, each.precision, each.graph_precision) for each in (first, second)}
    return len(names) == 1 and BACKENDS[first.name].exchanges_arrays


def _choose(bundle: Bundle, name: str, precision: str, threads: int | None, memory_limit_bytes: int | None) -> Choice:
    chosen = choose_precision(bundle, name, precision, threads)
    graphs = choose_graphs(bundle, name, chosen)
    streams = needs_streaming(bundle, chosen, memory_limit_bytes, graphs)
    if streams and not BACKENDS[name].can_stream_weights:
        needed = f"{_largest(bundle, chosen, graphs) / 1e6:,.1f} MB in {chosen}"
        raise BackendError(
            f"backend {name} holds a component's weights in memory, and one takes {needed}: raise the memory limit above that, "
            "or take backend ort-cpu"
        )
    return Choice(chosen, graphs, threads, streams, memory_limit_bytes)


def choose_backend(name: str, bundle: Bundle | None = None) -> str:
    """The backend's name; "auto" takes the first that works here and suits the bundle.

    Raises BackendError with what to install.
    """
    if name == "auto":
        return next(_working(bundle))
    if name not in BACKENDS:
        raise BackendError(f"backend={name!r} is not one of auto, {', '.join(BACKENDS)}")
    reason = BACKENDS[name].problem()
    if reason is not None:
        raise BackendError(f"backend {name} does not work here: {reason}")
    return name


def _working(bundle: Bundle | None = None) -> Iterator[str]:
    """Those that work here, in the table's order; those that a bundle is too small for come last. Asks each only when it is due.

    Raises BackendError where there is none.
    """
    largest = 0 if bundle is None else max(graph.weight_bytes for graph in bundle.manifest.graphs)
    names = BACKENDS if bundle is None else sorted(BACKENDS, key=lambda name: largest < BACKENDS[name].least_weight_bytes)
    found = False
    for name in names:
        if BACKENDS[name].problem() is None:
            found = True
            yield name
    if not found:
        raise BackendError(f"no backend works here, see `omnigen2 doctor`; on a CPU, {BACKENDS['ort-cpu'].problem()}")


def choose_precision(bundle: Bundle, backend: str, precision: str, threads: int | None = None) -> str:
    """The precision's name; "auto" takes the backend's best that the bundle holds. Raises BackendError otherwise."""
    possible = BACKENDS[backend].precisions(threads)
    if precision != "auto" and precision not in possible:
        on_one = " on one thread" if precision in BACKENDS[backend].precisions(None) else ""
        raise BackendError(f"backend {backend} can't run {precision}{on_one}; it runs {', '.join(possible)}")
    candidates = possible if precision == "auto" else (precision,)
    for candidate in candidates:
        if _graphs(bundle, backend, candidate) is not None:
            return candidate
    held = ", ".join(bundle.precisions)
    if any(candidate in bundle.precisions for candidate in candidates):
        runs = ", ".join(BACKENDS[backend].quantized or ())
        raise BackendError(
            f"backend {backend} can't run quantized graphs in {candidates[0]}; it runs them in {runs}; the bundle holds {held}:"
            " choose another precision or backend"
        )
    if precision != "auto":
        raise BackendError(f"the bundle holds {held}, not {precision}: export it with --precision {precision}")
    raise BackendError(
        f"backend {backend} runs {', '.join(possible)}; the bundle holds only {held}: export it with --precision {possible[0]}"
    )


def _graphs(bundle: Bundle, backend: str, precision: str) -> str | None:
    """Which of the bundle's graphs the backend runs in this precision, or None where it holds none of them."""
    usable = BACKENDS[backend].graphs.get(precision, (precision,))
    return next((graphs for graphs in usable if graphs in bundle.precisions and _runs_quantized(bundle, backend, graphs)), None)


def _runs_quantized(bundle: Bundle, backend: str, graphs: str) -> bool:
    """Whether the backend runs these graphs if they are quantized; true where they aren't."""
    possible = BACKENDS[backend].quantized
    rounded = any(graph.rounded_bytes for graph in bundle.manifest.graphs if graph.precision == graphs)
    return not rounded or possible is None or graphs in possible


def choose_graphs(bundle: Bundle, backend: str, precision: str) -> str:
    """Which of the bundle's graphs the backend runs for a precision that `choose_precision` gave: fp32, fp16 or bf16."""
    return _graphs(bundle, backend, precision) or precision


def needs_streaming(bundle: Bundle, precision: str, memory_limit_bytes: int | None, graphs: str | None = None) -> bool:
    """Whether some component alone is larger than the limit, so that its weights must be read at every run.

    graphs: which of the bundle's graphs are run in `precision`; by default those of the same name.
    """
    return memory_limit_bytes is not None and _largest(bundle, precision, graphs or precision) > memory_limit_bytes


def _largest(bundle: Bundle, precision: str, graphs: str) -> int:
    return max(resident_bytes(graph, precision) for graph in bundle.manifest.graphs if graph.precision == graphs)
