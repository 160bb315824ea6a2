"""The comparison: it accepts a correct bundle and detects a wrong weight in every precision; its report as text and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.verify import compare as comparison
from omnigen2_rt.exporter.verify.compare import Report, compare
from omnigen2_rt.exporter.verify.difference import difference
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError, BundleError, Cancelled
from tests.exporter.checkpoints import TRANSFORMER, A, copied, edit_tensors, scaled_weight
from tests.rounding_backend import add_rounding_backend

ALTERED = {"fp32": 1.01, "fp16": 1.1, "bf16": 1.5}
"""The factor on the last weight, by precision."""


def test_compare_of_an_export_is_within_tolerance(bundles: dict[str, Path]) -> None:
    calls: list[tuple[int, int]] = []
    settings = {"backend": "ort-cpu", "steps": 2, "threads": 1}
    report = compare(A, bundles["A"], **settings, progress=lambda done, total, what: calls.append((done, total)))
    assert (report.precision, report.within_tolerance) == ("fp32", True), report.table()
    names = [*(component.name for component in COMPONENTS), "text to image", "image editing"]
    assert [row.name for row in report.differences] == names
    assert calls == [(k, len(names)) for k in range(len(names))]
    assert max(row.relative_error for row in report.differences) < 1e-4
    assert len(report.table().splitlines()) == len(names) + 1
    data = json.loads(report.to_json())
    assert data["within_tolerance"] is True and data["differences"][0]["name"] == names[0]


def test_compare_under_a_memory_limit_is_within_tolerance(bundles: dict[str, Path]) -> None:
    report = compare(A, bundles["A"], precision="fp16", steps=1, threads=1, memory_limit_bytes=1)
    assert report.within_tolerance, report.table()


def test_compare_with_another_checkpoint_is_not_within_tolerance(bundles: dict[str, Path], tmp_path: Path) -> None:
    def scaled(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {**tensors, "norm_out.linear_2.weight": tensors["norm_out.linear_2.weight"] * np.float32(1.01)}

    checkpoint = copied(A, tmp_path)
    edit_tensors(checkpoint / TRANSFORMER, scaled)
    report = compare(checkpoint, bundles["A"], backend="ort-cpu", steps=1, threads=1)
    assert not report.within_tolerance
    assert [row.name for row in report.differences if row.kind == "component" and not row.within_tolerance] == ["velocity_head"]
    assert "too far" in report.table()


def test_compare_with_a_bundle_of_another_model_is_refused_before_anything_runs(bundles: dict[str, Path]) -> None:
    """The engine failed on the first component with a message about shapes, or the table called all of them too far."""
    with pytest.raises(BundleError, match="is of another model: its transformer.hidden_size is .*; give the checkpoint that"):
        compare(A, bundles["B"], progress=lambda *piece: pytest.fail(str(piece)))


def test_compare_of_a_bundle_with_other_defaults_runs(bundles: dict[str, Path]) -> None:
    """Such numbers change no component, and bundles made earlier have others."""
    ours = Bundle.open(bundles["A"]).manifest
    transformer = replace(ours.transformer, teacache_coefficients=(1.0,))
    theirs = replace(ours, transformer=transformer, vae=replace(ours.vae, sample_px=512), vision=None)
    comparison._check_same_numbers(ours, theirs, "checkpoint", "bundle")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_compare_of_an_engine_that_rounds_to_16_bits_is_within_tolerance(
    precision: str, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = compare(A, bundles["A"], backend=add_rounding_backend(monkeypatch), precision=precision, threads=1)
    assert report.within_tolerance, report.table()
    assert max(row.relative_error for row in report.differences) > 2e-4, "nothing was rounded"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_compare_of_a_bundle_with_altered_weights_is_not_within_tolerance(
    precision: str, bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawings alone must reveal it, without the components' tolerances."""
    monkeypatch.setattr(comparison, "COMPONENTS", ())
    backend = "ort-cpu" if precision == "fp32" else add_rounding_backend(monkeypatch)
    altered = scaled_weight(bundles["A"], tmp_path, "norm_out.linear_2.weight", ALTERED[precision])
    report = compare(A, altered, backend=backend, precision=precision, steps=1, height_px=32, width_px=32, threads=1)
    assert not any(row.within_tolerance for row in report.differences), report.table()


def test_compare_in_a_precision_that_does_not_run_is_an_error(bundles: dict[str, Path]) -> None:
    with pytest.raises(BackendError, match="ort-cpu can't run bf16"):
        compare(A, bundles["A"], backend="ort-cpu", precision="bf16")


def test_compare_is_cancelled_by_its_progress(bundles: dict[str, Path]) -> None:
    with pytest.raises(Cancelled, match=f"the comparison was stopped before {COMPONENTS[1].name}"):
        compare(A, bundles["A"], backend="ort-cpu", threads=1, progress=lambda done, total, what: done < 1)


def test_difference_computes_every_error() -> None:
    row = difference("x", "component", np.array([3.0, 4.0]), np.array([3.0, 4.5]), 0.2)
    assert (row.max_error, row.mean_error, row.relative_error) == (0.5, 0.25, 0.1)
    assert row.within_tolerance and row.cosine == pytest.approx(27 / (5 * math.hypot(3, 4.5)))


def test_difference_of_nan_is_never_within_tolerance() -> None:
    row = difference("x", "component", np.ones(2), np.array([1.0, math.nan]), 1.0)
    report = Report(checkpoint="c", bundle="b", backend="ort-cpu", precision="fp32", differences=(row,))
    assert not report.within_tolerance
    assert json.loads(report.to_json())["differences"][0]["max_error"] is None
