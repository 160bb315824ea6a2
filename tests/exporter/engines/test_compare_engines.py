"""Comparison of backends through polygraphy's comparator, and the `compare` command on engines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.engines.options import Limits
from omnigen2_rt.exporter.engines.profiles import engine_profiles
from omnigen2_rt.exporter.verify.compare_engines import (
    ProfileShapes,
    compare_backends,
    fitting_sizes,
    open_onnx_runtime,
)
from omnigen2_rt.exporter.verify.difference import relative_error
from omnigen2_rt.exporter.verify.torch_backend import TorchBackend
from omnigen2_rt.runtime.backends import BACKENDS, BackendEntry
from omnigen2_rt.runtime.backends.ort import OrtBackend, OrtSession
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError
from tests.commands.command import Command
from tests.exporting import GOLDENS

pytest.importorskip("polygraphy", reason="polygraphy's comparator compares the sides")

CHECKPOINT = GOLDENS / "A" / "checkpoint"
VELOCITY_HEAD = next(component for component in COMPONENTS if component.name == "velocity_head")


class Engines(OrtBackend):
    """A double of the TensorRT backend: ONNX Runtime with profiles, which the feeds must fit.

    error: the relative error that it adds to float32 outputs.
    """

    def __init__(self, bundle: Bundle, precision: str, limits: Limits, error: float = 0.0) -> None:
        super().__init__(bundle, "ort-cpu", precision, 1)
        self.bundle = bundle
        self.limits = limits
        self.error = error

    def profiles(self, component: str) -> Mapping[str, ProfileShapes]:
        if component == "lm_head":
            raise BackendError("the bundle has no TensorRT engine of lm_head")
        graph = self.bundle.graph(component, self.precision)
        return {profile.name: profile.shapes for profile in engine_profiles(graph, self.bundle.manifest, self.limits)}

    def open(self, component: str) -> OrtSession:
        session = super().open(component)
        profiles = {} if component == "lm_head" else self.profiles(component)
        run = session.run

        def checked(feeds: Mapping[str, Any]) -> dict[str, Any]:
            shapes = {name: array.shape for name, array in feeds.items() if isinstance(array, np.ndarray)}
            assert not profiles or any(fits(shapes, profile) for profile in profiles.values()), (component, shapes)
            return run(feeds)

        session.run = checked  # type: ignore[method-assign]
        return session

    def to_host(self, array: Any) -> np.ndarray:
        host = super().to_host(array)
        return host * (1 + self.error) if host.dtype == np.float32 else host


def fits(shapes: Mapping[str, tuple[int, ...]], profile: ProfileShapes) -> bool:
    return all(
        smallest <= size <= largest
        for name, shape in shapes.items()
        for smallest, size, largest in zip(profile[name][0], shape, profile[name][2], strict=True)
    )


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(monkeypatch, capsys)


@pytest.fixture
def add_engines(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces the TensorRT backend by the double."""

    def add(limits: Limits, error: float = 0.0) -> None:
        entry = BackendEntry(
            precisions=lambda threads: ("fp16", "fp32"),
            problem=lambda: None,
            create=lambda bundle, choice: Engines(bundle, choice.precision, limits, error),
        )
        monkeypatch.setitem(BACKENDS, "tensorrt", entry)

    return add


def comparison(path: Path, error: float = 0.0) -> Any:
    checkpoint, bundle = Checkpoint.open(CHECKPOINT), Bundle.open(path)
    sides = {
        "reference": TorchBackend(checkpoint),
        "onnxruntime": open_onnx_runtime(bundle, "fp32", 1),
        "engine": Engines(bundle, "fp32", Limits(), error),
    }
    return compare_backends(VELOCITY_HEAD, checkpoint.config_of(VELOCITY_HEAD), sides, "fp32", batch=1)


def test_engine_that_follows_the_other_sides_is_within_tolerance(bundles: dict[str, Path]) -> None:
    result = comparison(bundles["A"])
    assert list(result) == [("reference", "engine"), ("onnxruntime", "engine")]
    assert bool(result)
    assert result["reference", "engine"][0]["velocity"].relative_error < 1e-5
    assert result["onnxruntime", "engine"][0]["velocity"].relative_error == 0


def test_engine_that_is_off_is_not_within_tolerance(bundles: dict[str, Path]) -> None:
    result = comparison(bundles["A"], error=0.01)
    assert not bool(result)
    for side in ("reference", "onnxruntime"):
        assert result[side, "engine"][0]["velocity"].relative_error == pytest.approx(0.01, rel=0.01)


def test_compare_command_compares_engines_with_reference_and_onnx_runtime(
    command: Command, bundles: dict[str, Path], tmp_path: Path, add_engines: Any
) -> None:
    add_engines(Limits(max_size_px=64, typical_size_px=64, max_references=1))
    figures = tmp_path / "figures.json"
    words = ("--backend", "tensorrt", "--precision", "fp32", "--steps", 1, "--size", 32, "--json", figures)
    finished = command("compare", CHECKPOINT, bundles["A"], *words)
    assert finished.code == 0, finished.err + finished.out
    report = json.loads(figures.read_text(encoding="utf-8"))
    names = [row["name"] for row in report["differences"]]
    for label in ("transformer (text)", "transformer (references)", "language_model (decode)", "vae_decoder"):
        assert names.count(f"{label} / reference") == names.count(f"{label} / onnxruntime") == 1
    assert names[-2:] == ["text to image", "image editing"]
    assert report["notes"] == ["lm_head is not compared: the bundle has no TensorRT engine of lm_head"]
    assert report["notes"][0] in finished.out


def test_compare_command_of_engines_that_are_off_exits_1(
    command: Command, bundles: dict[str, Path], add_engines: Any
) -> None:
    add_engines(Limits(max_size_px=64, typical_size_px=64), error=0.01)
    words = ("--backend", "tensorrt", "--precision", "fp32", "--steps", 1, "--size", 32)
    finished = command("compare", CHECKPOINT, bundles["A"], *words)
    assert finished.code == 1
    assert "vae_decoder / onnxruntime" in finished.out and "too far" in finished.out


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(max_images=4),
        Limits(max_size_px=64, typical_size_px=64, max_references=1, max_prompt_tokens=5),
        Limits(max_size_px=16, typical_size_px=16, max_references=0, max_prompt_tokens=1),
    ],
    ids=["usual", "several images", "small", "smallest"],
)
@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
def test_sample_fits_every_profile_and_runs(bundles: dict[str, Path], component: Any, limits: Limits) -> None:
    bundle, checkpoint = Bundle.open(bundles["A"]), Checkpoint.open(CHECKPOINT)
    config = checkpoint.config_of(component)
    profiles = engine_profiles(bundle.graph(component.name, "fp32"), bundle.manifest, limits)
    session = open_onnx_runtime(bundle, "fp32", 1).open(component.name)
    for profile in profiles:
        sizes = fitting_sizes(component, config, profile.shapes)
        assert sizes is not None, profile.name
        feeds = component.sample(config, **sizes)
        assert fits({name: array.shape for name, array in feeds.items()}, profile.shapes)
        session.run(feeds)


def test_sample_that_fits_no_profile_is_none() -> None:
    config = Checkpoint.open(CHECKPOINT).config_of(VELOCITY_HEAD)
    sample = VELOCITY_HEAD.sample(config)
    shapes = {name: [array.shape] * 3 for name, array in sample.items()}
    shapes["hidden_states"] = [(2, 7, sample["hidden_states"].shape[2])] * 3
    assert fitting_sizes(VELOCITY_HEAD, config, shapes) is None


def test_onnx_runtime_without_bfloat16_takes_what_the_bundle_holds(bundles: dict[str, Path]) -> None:
    """On a CPU it can't run bfloat16, so the engine is compared with float32."""
    backend = open_onnx_runtime(Bundle.open(bundles["A"]), "bf16", 1)
    if backend.name == "ort-cpu":
        assert backend.precision == "fp32"
    assert backend.precision in VELOCITY_HEAD.tolerance


def test_relative_error_of_nan_is_not_within_any_tolerance() -> None:
    assert not relative_error(np.ones(3), np.array([1.0, np.nan, 1.0])) <= 1e9
