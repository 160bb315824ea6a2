"""Building with TensorRT: it chooses kernels by measuring them on this machine's GPU, and can hold our Omni-RoPE kernel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...runtime.backends.tensorrt import LIBRARIES
from ...runtime.errors import ExportError
from ...runtime.files.writing import write_whole
from .engine_builder import EngineBuilder, missing_module
from .options import EngineOptions


class StandardBuilder(EngineBuilder):
    """See EngineBuilder."""

    library = LIBRARIES["tensorrt"]
    ropes = ("plugin", "native")

    def problem(self, rope: str) -> str | None:
        """See EngineBuilder.problem: it needs the GPU and, unless rope is "native", Triton."""
        triton = "triton, which compiles the plugin's kernel (or build with --rope native)"
        missing = missing_module("triton", triton, self.library.extra) if rope != "native" else None
        return "; ".join(filter(None, (self.library.problem(), missing))) or None

    def completed(self, options: EngineOptions, precision: str) -> EngineOptions:
        """See EngineBuilder.completed."""
        if options.target is not None:
            raise ExportError(f"target={options.target!r}: TensorRT builds for this machine's GPU; see --hardware-compatibility")
        return replace(options, target=None)

    def configure(self, trt: Any, config: Any, options: EngineOptions) -> None:
        """See EngineBuilder.configure."""
        if options.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.hardware_compatibility_level = getattr(
            trt.HardwareCompatibilityLevel, options.hardware_compatibility.upper()
        )

    def prepare(self, rope: str) -> None:
        """See EngineBuilder.prepare: registers the plugin."""
        if rope != "plugin":
            return
        try:
            from ...plugins.omni_rope.plugin import register
        except ImportError as error:
            raise ExportError(
                f'the plugin can\'t be loaded ({error}): pip install "omnigen2-rt[tensorrt]", or --rope native'
            ) from None
        register()

    def load_timings(self, config: Any, file: Path, notes: list[str]) -> Callable[[], None]:
        """See EngineBuilder.load_timings. Level 0 measures nothing."""
        if config.builder_optimization_level == 0:
            return lambda: None
        timings = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
        if timings is not None:
            config.set_timing_cache(timings, ignore_mismatch=False)
        return lambda: notes.extend(store_timings(config, file))


def store_timings(config: Any, path: Path) -> list[str]:
    """Add a build's measured timings to a file. Returns a note where the disk refuses: the engine doesn't need them."""
    timings = config.get_timing_cache()
    if timings is None:
        return []
    try:
        if path.is_file():  # another builder may have added to it
            known = config.create_timing_cache(path.read_bytes())
            if known is not None:
                timings.combine(known, ignore_mismatch=True)
        write_whole(path, bytes(timings.serialize()))
    except OSError as error:
        return [f"measured timings are not kept ({error.strerror or error})"]
    return []
