"""Quantizes a bundle of random weights with random codes, for the sizes and memory of its engines: no calibration, no rounding.

    python benchmarks/random_codes.py BUNDLE TARGET --scheme int4-weights --precision bf16

Rounding OmniGen2's weights takes hours on two cores, and random weights gain nothing from it. Codes and scales are as large as
real ones and differ from each other, because an engine stores equal tensors once. Pictures of such a bundle mean nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np

from omnigen2_rt.exporter.quantize import bundle as quantize
from omnigen2_rt.exporter.quantize import groups
from omnigen2_rt.exporter.quantize.calibration import Calibration
from omnigen2_rt.exporter.quantize.input_statistics import InputStatistics
from omnigen2_rt.exporter.quantize.report import QuantizationReport
from omnigen2_rt.exporter.quantize.rounding import Rounded
from omnigen2_rt.exporter.quantize.schemes import SCHEMES, Scheme

CODES = {"int4": (-8, 8), "int8": (-127, 128), "fp8": (0, 100)}
"""The codes to draw from, by type; those of 8-bit floats are their bits."""


class AnyInput(dict[str, InputStatistics]):
    """The same statistics for every Linear."""

    def get(self, name: str, default: Any = None) -> InputStatistics:
        return InputStatistics(largest=np.full(1, 4.0, np.float32), mean_square=np.ones(1, np.float32))


def quantize_with_random_codes(bundle: Path, target: Path, scheme: Scheme, precision: str, seed: int = 0) -> None:
    """Write the bundle `target`. Raises ExportError as `quantize_bundle` does."""
    rng = np.random.default_rng(seed)

    def rounded(group: groups.Group, linears: Sequence[Any]) -> Rounded:
        codes = rng.integers(*CODES[group.storage.codes], group.codes_shape(linears), dtype=np.int8)
        scales = rng.uniform(0.001, 0.003, group.scales_shape(linears)).astype(np.float32)
        is_float = group.storage.codes == "fp8"
        return Rounded(codes=codes.view(ml_dtypes.float8_e4m3fn) if is_float else codes, scales=scales)

    report = QuantizationReport(scheme=scheme.name, components=(), drawings=(), size_px=64, steps=1)
    with (
        mock.patch.object(quantize, "PRECISION", precision),
        mock.patch.object(quantize, "collect_statistics", lambda bundle, staging, names, *_: dict.fromkeys(names, AnyInput())),
        mock.patch.object(quantize, "measure", lambda *_: report),
        mock.patch.object(groups, "_rounded", rounded),
    ):
        quantize.quantize_bundle(
            bundle, target, replace(scheme, compensates_errors=False), calibration=Calibration(prompts=("x",), size_px=64)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--scheme", choices=SCHEMES, required=True)
    parser.add_argument("--precision", default="bf16", help="the graphs that the bundle holds")
    wanted = parser.parse_args()
    quantize_with_random_codes(wanted.bundle, wanted.target, SCHEMES[wanted.scheme], wanted.precision)


if __name__ == "__main__":
    main()
