"""Building with TensorRT for RTX: needs no GPU, and one engine serves many kinds of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...runtime.backends.tensorrt import LIBRARIES
from ...runtime.errors import ExportError
from .engine_builder import EngineBuilder
from .options import EngineOptions

BF16_ON_75 = "Cannot compile for target(s) sm75, because the model contains HW-specific datatypes: b16"


class RTXBuilder(EngineBuilder):
    """See EngineBuilder. It has no plugins, so engines hold the library's own layers for Omni-RoPE."""

    library = LIBRARIES["tensorrt-rtx"]
    ropes = ("native",)

    def problem(self, rope: str) -> str | None:
        """See EngineBuilder.problem."""
        return self.library.version_problem()

    def completed(self, options: EngineOptions, precision: str) -> EngineOptions:
        """See EngineBuilder.completed: the default target is "portable"."""
        target = options.target or "portable"
        if options.version_compatible:
            raise ExportError("TensorRT for RTX builds no version-compatible engines: build again after an update")
        if options.hardware_compatibility != "none":
            raise ExportError("TensorRT for RTX takes --target in place of --hardware-compatibility; portable is its default")
        if options.optimization_level != EngineOptions.optimization_level:
            raise ExportError("TensorRT for RTX builds the same engine at every optimization level: leave it out")
        if target == "sm75" and precision == "bf16":
            raise ExportError(
                "GPUs of compute capability 7.5 have no bf16: export with --precision fp16 --materialize for --target sm75"
            )
        if options.strip_plan and (reason := self.library.gpu_problem()) is not None:
            raise ExportError(f"TensorRT for RTX builds engines without weights only where they can run: {reason}")
        return replace(options, target=target)

    def advice(self, reasons: str) -> str:
        """See EngineBuilder.advice. Graphs of a checkpoint in bf16 read its weights and cast them."""
        return " Export with --precision fp16 --materialize for --target sm75" if BF16_ON_75 in reasons else ""

    def configure(self, trt: Any, config: Any, options: EngineOptions) -> None:
        """See EngineBuilder.configure."""
        if options.target != "portable":
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, str(options.target).upper()), 0)
