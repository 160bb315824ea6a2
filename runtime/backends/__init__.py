"""The backends, one line each: where it works, what it can run, how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ..bundle import Bundle
from ..errors import BackendError
from . import ort, tensorrt
from .backend import Backend, DeviceArray, Session

__all__ = ["BACKENDS", "Backend", "BackendEntry", "DeviceArray", "Session", "choose_backend", "choose_precision"]


@dataclass(frozen=True, kw_only=True)
class BackendEntry:
    """A line of the table. `precisions`, best first; `problem()` says why it can't work here, or None."""

    precisions: tuple[str, ...]
    problem: Callable[[], str | None]
    create: Callable[..., Backend]


def _ort(name: str) -> BackendEntry:
    def create(bundle: Bundle, precision: str, threads: int | None, streams_weights: bool) -> Backend:
        return ort.OrtBackend(bundle, name, precision, threads, streams_weights)

    return BackendEntry(precisions=ort.PRECISIONS[name], problem=partial(ort.problem, name), create=create)


def _tensorrt() -> BackendEntry:
    def create(bundle: Bundle, precision: str, threads: int | None, streams_weights: bool) -> Backend:
        return tensorrt.TensorRTBackend(bundle, precision, streams_weights)

    return BackendEntry(precisions=tensorrt.PRECISIONS, problem=tensorrt.problem, create=create)


BACKENDS: dict[str, BackendEntry] = {
    "ort-cuda": _ort("ort-cuda"),
    "ort-cpu": _ort("ort-cpu"),
    "tensorrt": _tensorrt(),
}
"""In the order in which "auto" tries them. TensorRT comes last: it needs engines that `omnigen2 build` has to make first."""


def choose_backend(name: str) -> str:
    """The backend's name; "auto" takes the first that works here. Raises BackendError with what to install."""
    if name != "auto":
        if name not in BACKENDS:
            raise BackendError(f"backend={name!r} is not one of auto, {', '.join(BACKENDS)}")
        reason = BACKENDS[name].problem()
        if reason is not None:
            raise BackendError(f"backend {name} does not work here: {reason}")
        return name
    reasons = {candidate: entry.problem() for candidate, entry in BACKENDS.items()}
    for candidate, reason in reasons.items():
        if reason is None:
            return candidate
    raise BackendError(f"no backend works here: {reasons['ort-cpu']}")


def choose_precision(bundle: Bundle, backend: str, precision: str) -> str:
    """The precision's name; "auto" takes the backend's best that the bundle holds. Raises BackendError otherwise."""
    possible = BACKENDS[backend].precisions
    if precision != "auto":
        if precision not in possible:
            raise BackendError(f"backend {backend} can't run {precision}; it runs {', '.join(possible)}")
        if precision not in bundle.precisions:
            raise BackendError(
                f"the bundle holds {', '.join(bundle.precisions)}, not {precision}: export it with --precision {precision}"
            )
        return precision
    for candidate in possible:
        if candidate in bundle.precisions:
            return candidate
    raise BackendError(
        f"backend {backend} runs {', '.join(possible)}; the bundle holds only {', '.join(bundle.precisions)}: "
        f"export it with --precision {possible[0]}"
    )
