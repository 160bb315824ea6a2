"""Builds of graphs of OmniGen2's real widths, few layers deep, with the real TensorRT for RTX."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from benchmarks import random_checkpoint
from benchmarks.random_codes import quantize_with_random_codes
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.engines.build import build_engines
from omnigen2_rt.exporter.engines.engine_builder import BuiltEngine
from omnigen2_rt.exporter.engines.options import BuildOptions, Limits
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.quantize.schemes import SCHEMES
from tests.rtx_library import needs_rtx

pytestmark = [needs_rtx, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[3]
SMALL = Limits(max_size_px=64, typical_size_px=64, max_references=1, max_prompt_tokens=64)
FEW_LAYERS: dict[str, dict[str, Any]] = {
    "transformer": {"num_layers": 2, "num_refiner_layers": 1},
    "mllm": {"num_hidden_layers": 2, "vocab_size": 640},
}
FUSED = {"language_model", "vision_encoder", "context_refiner", "reference_embedder", "latent_embedder", "transformer"}


def write_zeros(file: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: Any) -> None:
    """A tensor of zeros, which takes no room on the disk."""
    file.truncate(file.tell() + int(np.prod(shape)) * dtype.itemsize)
    file.seek(0, 2)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A bundle in bf16 of such a model, whose weights are zeros."""
    folder = tmp_path_factory.mktemp("full-width")
    shutil.copytree(ROOT / "benchmarks" / "full_size_configuration", folder / "configuration")
    small = json.loads((ROOT / "benchmarks" / "configuration" / "mllm" / "config.json").read_text(encoding="utf-8"))
    for part, changes in FEW_LAYERS.items():
        file = folder / "configuration" / part / "config.json"
        config = {**json.loads(file.read_text(encoding="utf-8")), **changes}
        if part == "mllm":
            config |= {name: value for name, value in small.items() if name.endswith("_token_id")}
            config["vision_config"] |= {"depth": 2, "fullatt_block_indexes": [1]}
        file.write_text(json.dumps(config), encoding="utf-8")
    with mock.patch.object(random_checkpoint, "_write_values", write_zeros):
        random_checkpoint.write_checkpoint(folder / "configuration", folder / "checkpoint")
    export_bundle(folder / "checkpoint", folder / "bundle", precisions=("bf16",))
    yield folder / "bundle"
    shutil.rmtree(folder)


def measured(bundle: Path, *components: str) -> dict[str, BuiltEngine]:
    """The figures of builds, by component; no engine is kept."""
    options = BuildOptions(
        library="tensorrt-rtx", precision="bf16", components=components, limits=SMALL, dry_run=True, measure=True
    )
    plan = build_engines(bundle, options).plan
    assert plan.refusals == []
    return {engine.graph.component: engine.measured for engine in plan.engines if engine.measured is not None}


@pytest.fixture(scope="module")
def engines(bundle: Path) -> dict[str, BuiltEngine]:
    return measured(bundle)


@pytest.mark.parametrize("component", [component.name for component in COMPONENTS])
def test_component_of_full_width_builds(engines: dict[str, BuiltEngine], component: str) -> None:
    built = engines[component]
    expected = "fused" if component in FUSED else "decomposable" if component.startswith("vae_") else "none"
    assert (built.attention, built.notes) == (expected, ())


MOST_WEIGHTS = {"int8-weights": 0.6, "int8": 0.6, "fp8": 0.6, "int4-weights": 0.4}
"""The part of the bf16 weights that a scheme's may take; modulation stays as it is."""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_quantized_transformer_of_full_width_builds_and_its_weights_stay_small(
    bundle: Path, engines: dict[str, BuiltEngine], tmp_path: Path, scheme: str
) -> None:
    chosen = replace(SCHEMES[scheme], components={"transformer": SCHEMES[scheme].components["transformer"]})
    quantize_with_random_codes(bundle, tmp_path / scheme, chosen, "bf16")
    (built,) = measured(tmp_path / scheme, "transformer").values()
    assert (built.attention, built.notes) == ("fused", ())
    unquantized = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["graphs"]
    (whole,) = (graph["resident_bytes"] for graph in unquantized if graph["component"] == "transformer")
    assert built.weight_bytes is not None and built.weight_bytes < MOST_WEIGHTS[scheme] * whole
