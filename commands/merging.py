"""Merges the LoRAs of a command line into its bundle, and says what that did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..runtime.errors import RequestError
from .option_values import lora_option
from .terminal import ProgressLine, printable

if TYPE_CHECKING:
    from ..exporter.lora_bundle import MergedBundle


def with_loras(bundle: str | Path, loras: Sequence[str], folder: Path | None) -> str | Path:
    """The bundle that is drawn with: `bundle` itself, or the one with LoRAs merged, which is made where it is missing.

    loras: FILE or FILE:SCALE. folder: of merged bundles. Raises RequestError, and as `merged_bundle` does.
    """
    if not loras:
        if folder is not None:
            raise RequestError("--lora-dir belongs to --lora")
        return bundle
    from ..exporter.lora_bundle import Lora, merged_bundle
    from ..runtime.pipeline import bundle_path

    chosen = [Lora(path=path, scale=scale) for path, scale in map(lora_option, loras)]
    bar = ProgressLine()
    try:
        merged = merged_bundle(bundle_path(bundle), chosen, folder=folder, progress=bar.show)
    finally:
        bar.end()
    for line in _report(merged):
        typer.echo(printable(line), err=True)
    return merged.path


def _report(merged: MergedBundle) -> list[str]:
    """The lines about a bundle that was made; none about one that was there."""
    from ..exporter.weights.placement import OTHER_FILESYSTEM

    if not merged.is_new:
        return []
    size = f"{merged.written_bytes / 1e6:.1f} MB in {merged.seconds:.1f} s"
    lines = [*map(str, merged.reports), f"merged into {str(merged.path)!r}: {size}"]
    if merged.copied:
        elsewhere = "; --lora-dir names a folder on the bundle's own" if OTHER_FILESYSTEM in merged.copied.reasons else ""
        lines.append(f"note: {merged.copied}{elsewhere}")
    if merged.engines:
        lines.append(f"note: the bundle's engines don't fit; `omnigen2 build {merged.path}` builds those of the merged one")
    return lines
