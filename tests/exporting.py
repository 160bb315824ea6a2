"""Bundles of the golden checkpoints, exported once a session and only read by the tests."""

from __future__ import annotations

from pathlib import Path

from omnigen2_rt.exporter.export import Lora, export_bundle

GOLDENS = Path(__file__).resolve().parent / "data" / "goldens"


def exported_bundle(checkpoint: Path, tmp: Path, precisions: tuple[str, ...] = ("fp32",), lora: Lora | None = None) -> Path:
    """Export `checkpoint` to a new folder under `tmp`; returns the bundle."""
    bundle = tmp / f"bundle-{checkpoint.parent.name}{'-lora' if lora else ''}"
    export_bundle(checkpoint, bundle, precisions=precisions, lora=lora)
    return bundle
