"""Measures every way of drawing one picture that works here: each backend in each precision with each cache.

Each way runs in a process of its own, one after the other, so that its peak of memory is its own. Pictures are compared with
that of the first way in fp32 without a cache; how good they are, the caller's `score` says.
"""

from __future__ import annotations

import math
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.backends import BACKENDS, check_limits
from ..runtime.bundle import Bundle
from ..runtime.errors import BackendError, OmniGen2Error
from ..runtime.pipeline import Pipeline, bundle_path, load
from ..runtime.progress import Progress, no_progress
from ..runtime.step_caches import CACHES, CachePolicy
from .bench import MOST_DRAWINGS, machine_facts, peak_bytes, request_of
from .options import check_range

Pixels = NDArray[np.uint8]
Scoring = Callable[[Pipeline, CachePolicy | None], float]
"""Judges a model's pictures, 0 to 1. A function of a module, because it is called in another process."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A way of drawing. cache: None, "teacache" or "taylorseer"."""

    backend: str
    precision: str
    cache: str | None

    def __str__(self) -> str:
        return f"{self.backend} {self.precision}{f' {self.cache}' if self.cache else ''}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of a way; zeros where it doesn't work.

    first_s: from an empty process to a first step, opening the components included.
    seconds: the median drawing after it.
    step_s: the median step.
    peak_bytes: of the whole process; None if unknown.
    max_error: the largest difference of a pixel from the first way in fp32, in grey levels; None without such a way.
    psnr_db: likewise; None where every pixel is the same.
    score: the caller's judgement; None without one.
    problem: why it doesn't work; None where it does.
    """

    way: Way
    first_s: float = 0.0
    seconds: float = 0.0
    step_s: float = 0.0
    peak_bytes: int | None = None
    max_error: int | None = None
    psnr_db: float | None = None
    score: float | None = None
    problem: str | None = None


def ways(bundle: Bundle, threads: int | None = None) -> list[Way]:
    """The ways that may work. fp32 without a cache comes first on each backend: the others are compared with it."""
    candidates = []
    for name, entry in BACKENDS.items():
        if entry.problem() is not None:
            continue
        held = [p for p in entry.precisions(threads) if {*entry.graphs.get(p, (p,))} & {*bundle.precisions}]
        for precision in sorted(held, key=lambda precision: precision != "fp32"):
            candidates += [Way(backend=name, precision=precision, cache=cache) for cache in (None, *CACHES)]
    return candidates


def measure_ways(
    bundle: str | Path,
    *,
    size_px: int,
    steps: int,
    repeat: int = 1,
    threads: int | None = None,
    score: Scoring | None = None,
    progress: Progress = no_progress,
) -> list[Measured]:
    """Draw one picture in every way, `repeat` times each after a first step, and let `score` judge each way's pictures.

    Raises BundleError, BackendError where no way works, and RequestError for a number that is out of range.
    """
    check_range("repeat", repeat, 1, MOST_DRAWINGS)
    request_of([], (0.0, 1.0), size_px, steps, None)
    check_limits(memory_limit_bytes=None, threads=threads)
    folder = bundle_path(bundle)
    every = ways(Bundle.open(folder), threads)
    measured: list[Measured] = []
    exact: Pixels | None = None
    for done, way in enumerate(every):
        progress(done, len(every), str(way))
        result, pixels = _in_own_process(folder, way, size_px, steps, repeat, threads, score)
        if exact is None and pixels is not None and (way.precision, way.cache) == ("fp32", None):
            exact = pixels
        measured.append(_compared(result, exact, pixels))
    if all(result.problem for result in measured):
        raise BackendError("no way of drawing works here: `omnigen2 doctor` says why")
    return measured


def _in_own_process(bundle: Path, way: Way, *arguments: Any) -> tuple[Measured, Pixels | None]:
    spawning = get_context("spawn")
    here, there = spawning.Pipe(duplex=False)
    process = spawning.Process(target=_measure, args=(there, bundle, way, *arguments))
    with _ctrl_c_ignored():
        process.start()
    there.close()
    try:
        result: tuple[Measured, Pixels | None] = here.recv()
        process.join()
    except EOFError:
        process.join()
        result = Measured(way=way, problem=f"its process ended with {process.exitcode}"), None
    finally:
        process.kill()  # after Ctrl-C; otherwise it has ended
        process.join()
    return result


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """A process that is started in the block never hears Ctrl-C, which a terminal sends to both: this one ends the other."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _measure(
    answer: Connection,
    bundle: Path,
    way: Way,
    size_px: int,
    steps: int,
    repeat: int,
    threads: int | None,
    score: Scoring | None,
) -> None:
    """Runs in the process: draws, and sends the figures with the last picture."""
    started = time.perf_counter()
    cache = None if way.cache is None else CACHES[way.cache]()
    request = request_of([], (0.0, 1.0), size_px, steps, cache)
    try:
        with load(bundle, backend=way.backend, precision=way.precision, threads=threads) as pipeline:
            pipeline.generate(replace(request, steps=1, cache=None))
            first_s = time.perf_counter() - started
            results = [pipeline.generate(request) for _ in range(repeat)]
            peak = peak_bytes()
            scored = None if score is None else score(pipeline, cache)
    except OmniGen2Error as error:
        answer.send((Measured(way=way, problem=str(error)), None))
        return
    seconds = statistics.median(sum(result.timings.values()) for result in results)
    step_s = statistics.median(result.timings["denoising"] / steps for result in results)
    result = Measured(way=way, first_s=first_s, seconds=seconds, step_s=step_s, peak_bytes=peak, score=scored)
    answer.send((result, np.asarray(results[-1].images[0])))


def _compared(result: Measured, exact: Pixels | None, pixels: Pixels | None) -> Measured:
    if exact is None or pixels is None:
        return result
    error = np.abs(exact.astype(np.float64) - pixels)
    mean_square = float(np.mean(error**2))
    psnr_db = None if mean_square == 0 else 10 * math.log10(255**2 / mean_square)
    return replace(result, max_error=int(error.max()), psnr_db=psnr_db)


def ways_table(measured: list[Measured]) -> str:
    """The ways as a text table, in the order they were measured; below it those that don't work, and why."""
    rows = [["backend", "precision", "cache", "first step s", "drawing s", "a step s", "peak MB", "PSNR dB"]]
    working = [result for result in measured if result.problem is None]
    if any(result.score is not None for result in working):
        rows[0].append("right %")
    for result in working:
        peak = "?" if result.peak_bytes is None else f"{result.peak_bytes / 1e6:.0f}"
        psnr = "?" if result.max_error is None else "same" if result.psnr_db is None else f"{result.psnr_db:.1f}"
        spent = [f"{result.first_s:.2f}", f"{result.seconds:.2f}", f"{result.step_s:.3f}"]
        rows.append([result.way.backend, result.way.precision, result.way.cache or "-", *spent, peak, psnr])
        if result.score is not None:
            rows[-1].append(f"{100 * result.score:.0f}")
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*lines, *(f"{result.way}: {result.problem}" for result in measured if result.problem is not None)])


def ways_json(bundle: str | Path, measured: list[Measured]) -> dict[str, Any]:
    """The ways with the machine and the versions they were measured on."""
    source = Bundle.open(bundle_path(bundle)).manifest.source
    return {**machine_facts(), "bundle": source, "ways": [asdict(found) for found in measured]}
