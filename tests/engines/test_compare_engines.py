"""Backends beside each other through polygraphy's comparator, here ONNX Runtime beside the reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.compare_engines import all_within, compare_component, relative_error
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.torch_backend import TorchBackend
from omnigen2_rt.runtime.backends import BACKENDS
from omnigen2_rt.runtime.bundle import Bundle
from tests.exporting import GOLDENS

VELOCITY_HEAD = next(component for component in COMPONENTS if component.name == "velocity_head")


def compared(bundle: Path, wrong_by: float = 0.0) -> Any:
    checkpoint = Checkpoint.open(GOLDENS / "A" / "checkpoint")
    engine = BACKENDS["ort-cpu"].create(Bundle.open(bundle), "fp32", 1, False)
    if wrong_by:
        real = engine.to_host
        engine.to_host = lambda array: real(array) * (1 + wrong_by)  # type: ignore[method-assign]
    backends = {"reference": TorchBackend(checkpoint), "engine": engine}
    config = checkpoint.config_of(VELOCITY_HEAD)
    return compare_component(VELOCITY_HEAD, config, backends, "fp32", batch=1)


def test_engine_that_follows_the_reference_is_within_tolerance(bundles: dict[str, Path]) -> None:
    result = compared(bundles["A"])
    assert list(result) == [("reference", "engine")]
    assert all_within([result])
    assert result["reference", "engine"][0]["velocity"].relative_error < 1e-5


def test_engine_that_is_off_is_not_within_tolerance(bundles: dict[str, Path]) -> None:
    result = compared(bundles["A"], wrong_by=0.01)
    assert not all_within([result])
    assert result["reference", "engine"][0]["velocity"].relative_error == pytest.approx(0.01, rel=0.01)


def test_relative_error_of_not_a_number_is_not_within_any_tolerance() -> None:
    assert not relative_error(np.ones(3), np.array([1.0, np.nan, 1.0])) <= 1e9
