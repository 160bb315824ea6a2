"""OpenVINO: bf16 from fp32 graphs, compiled models on disk, and an import without telemetry."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt import load
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.openvino import compiled_models as compiled
from omnigen2_rt.runtime.backends.openvino import rewrites
from omnigen2_rt.runtime.backends.openvino.backend import OpenVINOBackend, OpenVINOSession
from omnigen2_rt.runtime.backends.openvino.library import openvino_core
from omnigen2_rt.runtime.backends.openvino.rewrite_reports import RewriteReport
from omnigen2_rt.runtime.backends.openvino.rewrite_rope import rotate_by_products
from omnigen2_rt.runtime.backends.openvino.rewrite_weights import MARK, keep_stored_weights
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.files.user_cache import user_cache
from omnigen2_rt.runtime.request import Request

COMPONENT = "context_refiner"
FEEDS = {"prompt_embeds": np.ones((1, 5, 64), np.float32), **{name: np.ones((5, 12), np.float32) for name in ("cos", "sin")}}
REQUEST = Request(prompt="a red cube", height_px=64, width_px=64, steps=3)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The components that are compiled, and not read from disk, during the test."""
    components: list[str] = []
    open_component = OpenVINOBackend.open

    def counting(self: OpenVINOBackend, component: str) -> OpenVINOSession:
        session = open_component(self, component)
        components.extend({component} & self.rewrites.keys())
        return session

    monkeypatch.setattr(OpenVINOBackend, "open", counting)
    return components


def result(bundle: Bundle, **options: Any) -> np.ndarray:
    """One component's output on a new backend."""
    backend = open_backend(bundle, "openvino", options.pop("precision", "fp32"), **{"threads": 1, **options})
    return backend.to_host(backend.open(COMPONENT).run(FEEDS)["context"])


def test_openvino_import_sends_no_telemetry() -> None:
    code = "import sys; from omnigen2_rt.runtime.backends.openvino.library import openvino_core; openvino_core()"
    command = [sys.executable, "-c", f"{code}; print(sorted(sys.modules))"]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "'openvino'" in finished.stdout
    assert "'openvino_telemetry'" not in finished.stdout


def test_openvino_compiles_a_graph_once(bundle: Bundle, compilations: list[str]) -> None:
    first, second = result(bundle), result(bundle)
    np.testing.assert_array_equal(first, second)
    assert compilations == [COMPONENT]


def test_openvino_compiles_no_graph_again_that_a_memory_limit_leaves_as_it_is(bundle: Bundle, compilations: list[str]) -> None:
    np.testing.assert_array_equal(result(bundle), result(bundle, memory_limit_bytes=1 << 40))
    assert compilations == [COMPONENT]


def test_openvino_compiles_again_for_other_options(bundle: Bundle, compilations: list[str]) -> None:
    for options in ({}, {"threads": 2}, {"threads": 2, "precision": "bf16"}, {}):
        result(bundle, **options)
    assert len(compilations) == 3


def test_openvino_compiles_again_what_it_refuses_to_read(
    bundle: Bundle, compilations: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = result(bundle)
    monkeypatch.setattr(compiled.CompiledModels, "load", lambda self, key: np.zeros(5000, np.uint8))
    np.testing.assert_array_equal(result(bundle), expected)
    assert len(compilations) == 2


def test_openvino_works_where_no_model_can_be_kept(storeless_bundle: Bundle, compilations: list[str]) -> None:
    np.testing.assert_array_equal(result(storeless_bundle), result(storeless_bundle))
    assert len(compilations) == 2


def test_openvino_picture_from_models_on_disk_is_the_same(bundle: Bundle, compilations: list[str]) -> None:
    pictures = []
    for _ in range(2):
        with load(bundle.path, backend="openvino", precision="fp32", threads=1) as pipeline:
            pictures.append(pipeline.generate(REQUEST).latents)
    np.testing.assert_array_equal(*pictures)
    assert len(compilations) == len({*compilations})


def test_openvino_bf16_is_near_fp32_and_not_the_same(bundles: dict[str, Path]) -> None:
    latents = {}
    for precision in ("fp32", "bf16"):
        with load(bundles["A"], backend="openvino", precision=precision, threads=2) as pipeline:
            assert (pipeline.backend.precision, pipeline.backend.graph_precision) == (precision, "fp32")
            latents[precision] = pipeline.generate(REQUEST).latents
    error = np.linalg.norm(latents["bf16"] - latents["fp32"]) / np.linalg.norm(latents["fp32"])
    assert 1e-5 < error < 3e-2


def test_openvino_computes_no_bf16_on_one_thread(bundles: dict[str, Path]) -> None:
    """On CPUs with AMX it ended the process with a floating point exception."""
    with pytest.raises(BackendError, match="openvino can't run bf16( on one thread)?; it runs fp32"):
        open_backend(Bundle.open(bundles["A"]), "openvino", "bf16", threads=1)
    assert open_backend(Bundle.open(bundles["A"]), "openvino", "auto", threads=1).precision == "fp32"


@pytest.mark.parametrize("component", [entry.name for entry in COMPONENTS if entry.keeps_float32])
def test_openvino_component_that_costs_no_time_is_exact_in_bf16(bundles: dict[str, Path], component: str) -> None:
    bundle = Bundle.open(bundles["A"])
    rng = np.random.default_rng(0)
    sizes = {"latent_height": 4, "latent_width": 4, "image_tokens": 4, "batch": 1, "steps": 2}
    feeds = {
        name: rng.standard_normal([size if isinstance(size, int) else sizes[size] for size in spec.shape], np.float32)
        for name, spec in bundle.graph(component, "fp32").inputs.items()
    }
    outputs = []
    for precision in ("fp32", "bf16"):
        backend = open_backend(bundle, "openvino", precision, threads=2)
        outputs.append([backend.to_host(array) for array in backend.open(component).run(feeds).values()])
    np.testing.assert_array_equal(*outputs)


def test_openvino_runs_bf16_graphs_of_a_bundle_without_others(bundles: dict[str, Path]) -> None:
    whole = Bundle.open(bundles["A"])
    graphs = tuple(graph for graph in whole.manifest.graphs if graph.precision == "bf16")
    backend = open_backend(Bundle(whole.path, replace(whole.manifest, graphs=graphs)), "openvino", "bf16", threads=2)
    assert backend.graph_precision == "bf16"
    context = backend.to_host(backend.open(COMPONENT).run(FEEDS)["context"])
    assert context.dtype == np.float32
    expected = result(whole)
    assert np.linalg.norm(context - expected) < 2e-2 * np.linalg.norm(expected)


def test_openvino_without_a_cpu_says_what_there_is(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnigen2_rt.runtime.backends.openvino.library.DEVICE", "NPU")
    with pytest.raises(BackendError, match="OpenVINO finds no NPU here, only CPU"):
        OpenVINOBackend(bundle, "fp32", "fp32")


REWRITTEN = {
    "transformer.fp32.inlined.onnx": 6,
    "transformer.bf16.inlined.onnx": 6,
    "context_refiner.fp32.inlined.onnx": 4,
    "velocity_head.fp32.onnx": 0,
}
"""Graphs of config A, and their number of rotations: queries and keys of every layer."""


@pytest.mark.parametrize(("name", "count"), REWRITTEN.items())
def test_openvino_rotation_is_rewritten_everywhere_and_once(bundles: dict[str, Path], name: str, count: int) -> None:
    model = openvino_core().read_model(bundles["A"] / name)
    assert rotate_by_products(model) == RewriteReport("rotate_by_products", count)
    assert rotate_by_products(model).rewritten == 0


def test_openvino_rotation_is_the_same_after_the_rewrite(bundles: dict[str, Path]) -> None:
    rng = np.random.default_rng(0)
    feeds = {
        "prompt_embeds": rng.standard_normal((1, 5, 64), np.float32),
        "cos": rng.standard_normal((5, 12), np.float32),
        "sin": rng.standard_normal((5, 12), np.float32),
    }
    outputs = []
    for rewritten in (False, True):
        model = openvino_core().read_model(bundles["A"] / "context_refiner.fp32.inlined.onnx")
        if rewritten:
            rotate_by_products(model)
        compiled_model = openvino_core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        outputs.append(compiled_model(feeds)[0])
    np.testing.assert_allclose(*outputs, atol=1e-5, rtol=0)


def test_openvino_model_with_a_rotation_that_was_not_rewritten_is_not_kept(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read again, such a model would compute something else."""
    monkeypatch.setattr(rewrites, "rotate_by_products", lambda model: RewriteReport("none", 0))
    backend = open_backend(bundle, "openvino", "fp32", threads=1)
    backend.open("context_refiner")
    backend.open("velocity_head")
    assert [path.name.split(".")[0] for path in (user_cache().folder / compiled.FOLDER).iterdir()] == ["velocity_head"]


def test_openvino_weights_of_16_bits_are_not_held_in_float32_too(bundles: dict[str, Path]) -> None:
    """Config A's are stored in bf16: every cast that feeds only products is marked, and products take weights as stored."""
    model = openvino_core().read_model(bundles["A"] / "transformer.fp32.inlined.onnx")
    count = keep_stored_weights(model).rewritten
    casts = [node for node in model.get_ordered_ops() if node.get_type_name() == "Convert" and MARK in node.get_rt_info()]
    products = [target.get_node() for cast in casts for target in cast.output(0).get_target_inputs()]
    assert count == len(casts) == len(products) > 20
    assert all(product.get_type_name() == "MatMul" and product.get_attributes()["transpose_b"] for product in products)
    assert {cast.get_input_element_type(0).to_string() for cast in casts} == {"bf16"}


def test_openvino_weights_kept_as_stored_give_the_same(storeless_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = result(storeless_bundle)
    monkeypatch.setattr(rewrites, "keep_stored_weights", lambda model: RewriteReport("none", 0))
    np.testing.assert_allclose(result(storeless_bundle), expected, atol=1e-5, rtol=0)
