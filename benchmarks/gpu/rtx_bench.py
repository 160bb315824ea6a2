"""The setting of `rtx_engines.py`: its options, its bundles, and what several sections do with them."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnigen2_rt.exporter.engines.build import BuildReport, build_engines
from omnigen2_rt.exporter.engines.options import BuildOptions, EngineOptions, Limits
from omnigen2_rt.runtime.backends.tensorrt import LIBRARIES
from omnigen2_rt.runtime.backends.tensorrt.cuda import Device
from omnigen2_rt.runtime.backends.tensorrt.library import cuda_problem
from omnigen2_rt.runtime.backends.tensorrt.records import EngineRecord, engine_folder
from omnigen2_rt.runtime.pipeline import NANO

LIBRARY = LIBRARIES["tensorrt-rtx"]
NANO_LIMITS = Limits(max_size_px=128, typical_size_px=128)


@dataclass(frozen=True, kw_only=True)
class RTXBench:
    """The options.

    work: the folder of bundles and engines.
    backend: that which is measured; anything but TensorRT for RTX tries the program itself.
    precisions: nano's; the first is also the full-size step's.
    rounds: measured runs of each side.
    samples: of each of nano's abilities.
    layers: of the full-size transformer; None: as many as fit.
    configuration: the folder of another model's configuration, or None.
    """

    work: Path
    backend: str
    precisions: Sequence[str]
    size_px: int
    rounds: int
    samples: int
    layers: int | None
    configuration: str | None

    @property
    def uses_engines(self) -> bool:
        return self.backend == LIBRARY.name

    def nano(self, precision: str) -> Path:
        """A bundle of nano with graphs in this precision. The first call makes it; fp16 is exported, which needs PyTorch.

        nano's weights are stored in bf16, which GPUs of compute capability 7.5 don't have: those of fp16 are converted.
        """
        bundle = self.work / ("nano-fp16" if precision == "fp16" else "nano")
        if bundle.exists():
            return bundle
        if precision == "fp16":
            from omnigen2_rt.exporter.export import export_bundle

            export_bundle(NANO, bundle, precisions=(precision,), materialized=True)
        else:
            shutil.copytree(NANO, bundle, ignore=shutil.ignore_patterns("engines", "compiled"))
        return bundle

    def build_nano(self, precision: str) -> BuildReport | None:
        """nano's engines, or None on a backend without engines."""
        return self.build(self.nano(precision), precision, NANO_LIMITS)

    def build(self, bundle: Path, precision: str, limits: Limits, **options: Any) -> BuildReport | None:
        """A bundle's engines, built or found, or None on a backend without engines. options: see EngineOptions.

        A portable engine runs on all GPUs but those of compute capability 7.5.
        """
        if not self.uses_engines:
            return None
        is_oldest = cuda_problem() is None and Device().compute_capability() == "7.5"
        engine = EngineOptions(target="sm75" if is_oldest else "portable", **options)
        return build_engines(bundle, BuildOptions(library=LIBRARY.name, precision=precision, limits=limits, engine=engine))


def engine_figures(record: EngineRecord) -> dict[str, Any]:
    """An engine's size, what its build took and what the library states of its memory."""
    names = ("attention", "seconds", "weight_bytes", "scratch_bytes", "notes")
    return {"plan_bytes": record.size_bytes, **{name: record.report[name] for name in names}}


def remove_engine(bundle: Path, record: EngineRecord) -> None:
    """Delete an engine: that of the newest build is what a backend takes."""
    for ending in ("json", "plan"):
        (engine_folder(bundle) / f"{record.name}.{ending}").unlink()


def timed(call: Callable[[], Any]) -> float:
    """The call's seconds."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Each call's seconds, `rounds` times. They take turns, so that a slow minute of the machine is everybody's."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(timed(call))
    return times


def median_ms(seconds: Sequence[float]) -> float:
    return 1e3 * statistics.median(seconds)
