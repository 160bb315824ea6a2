"""Quantized bundles for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from omnigen2_rt.exporter.quantize.bundle import quantize_bundle
from omnigen2_rt.exporter.quantize.calibration import Calibration

SMALL = Calibration(prompts=("a red cube", "two cats on a sofa", "rain at night"), size_px=64, steps=2, threads=1)


class QuantizedBundles(dict[tuple[str, str], Path]):
    """The golden bundles quantized, by scheme and config. Each is made when it is first asked for."""

    def __init__(self, bundles: dict[str, Path], folder: Path) -> None:
        super().__init__()
        self._bundles = bundles
        self._folder = folder

    def __missing__(self, key: tuple[str, str]) -> Path:
        scheme, config = key
        self[key] = self._folder / f"{config}-{scheme}"
        quantize_bundle(self._bundles[config], self[key], scheme, calibration=SMALL)
        return self[key]


@pytest.fixture(scope="session")
def quantized(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> QuantizedBundles:
    """By scheme and config. A is stored in bfloat16, so a Cast stands before its weights; no block divides the widths of B.

    A has graphs in fp32, fp16 and bf16, B in fp32.
    """
    return QuantizedBundles(bundles, tmp_path_factory.mktemp("quantized"))
