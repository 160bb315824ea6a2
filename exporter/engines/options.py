"""The options of a build: the sizes that engines must take, and the library's settings. Values only."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ...runtime.backends.tensorrt.records import HARDWARE_COMPATIBILITY, ROPES, TARGETS
from ...runtime.errors import ExportError

SMALLEST_PX = 16


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest inputs of the engines. Raises ExportError for a value out of range.

    max_size_px: the longest side of an image; 1536 × 640 needs 1536.
    typical_size_px: the side that engines are tuned for.
    max_references: the most reference images of a request.
    max_images: the most images generated in a batch.
    max_prompt_tokens: the longest prompt; it also bounds an answer's length in a chat.
    """

    max_size_px: int = 1024
    typical_size_px: int = 1024
    max_references: int = 3
    max_images: int = 1
    max_prompt_tokens: int = 1024

    def __post_init__(self) -> None:
        for name in ("max_size_px", "typical_size_px"):
            if getattr(self, name) < SMALLEST_PX:
                raise ExportError(f"{name}={getattr(self, name)} is below the smallest size, {SMALLEST_PX}")
        for name, smallest in (("max_references", 0), ("max_images", 1), ("max_prompt_tokens", 1)):
            if getattr(self, name) < smallest:
                raise ExportError(f"{name}={getattr(self, name)} is below {smallest}")
        if self.typical_size_px > self.max_size_px:
            raise ExportError(f"typical_size_px={self.typical_size_px} is above max_size_px={self.max_size_px}")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """The library's settings. Every field is part of an engine's key. Raises ExportError for a value that is not allowed.

    optimization_level: 0 to 5; a higher level builds longer.
    workspace_bytes: the most scratch memory that a tactic may use; None: no limit.
    weight_streaming: weights may stay in host memory.
    strip_plan: the plan holds no weights; the backend reads them from the bundle at load.
    version_compatible: the engine runs on other TensorRT versions of the same major version; TensorRT only.
    hardware_compatibility: "none", "ampere_plus" or "same_compute_capability"; TensorRT only.
    decomposable_attention: never request a fused attention kernel.
    target: the GPUs that the engine is for, one of TARGETS; TensorRT for RTX only. None: the library's default.
    """

    optimization_level: int = 3
    workspace_bytes: int | None = None
    weight_streaming: bool = False
    strip_plan: bool = False
    version_compatible: bool = False
    hardware_compatibility: str = "none"
    decomposable_attention: bool = False
    target: str | None = None

    def __post_init__(self) -> None:
        if self.optimization_level not in range(6):
            raise ExportError(f"optimization_level={self.optimization_level} is not 0 to 5")
        if self.workspace_bytes is not None and not 0 < self.workspace_bytes < 2**63:
            raise ExportError(f"workspace_bytes={self.workspace_bytes} is not above 0, or too large")
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            raise ExportError(
                f"hardware_compatibility={self.hardware_compatibility!r} is not one of {', '.join(HARDWARE_COMPATIBILITY)}"
            )
        if self.target is not None and self.target not in TARGETS:
            raise ExportError(f"target={self.target!r} is not one of {', '.join(TARGETS)}")

    def to_json(self) -> dict[str, Any]:
        """The options as part of an engine's key."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """One run of `omnigen2 build`. Raises ExportError for an unknown rope.

    library: "tensorrt", "tensorrt-rtx" or "auto".
    precision: "auto" is the best that the bundle holds.
    components: the components to build; empty: all.
    rope: "plugin" (our kernel), "native" (the library's own layers), or "auto", the best that the library takes.
    dry_run: plan and check only.
    measure: with dry_run, also build every engine, for its memory, and keep none.
    """

    library: str = "auto"
    precision: str = "auto"
    components: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    engine: EngineOptions = field(default_factory=EngineOptions)
    rope: str = "auto"
    dry_run: bool = False
    measure: bool = False

    def __post_init__(self) -> None:
        if self.rope not in ("auto", *ROPES):
            raise ExportError(f"rope={self.rope!r} is not one of auto, {', '.join(ROPES)}")
        if self.measure and not self.dry_run:
            raise ExportError("measure goes with dry_run: a build measures anyway")
