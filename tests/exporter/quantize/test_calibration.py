"""Calibration: its settings and prompts, and the statistics of the values that Linears multiply."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from omnigen2_rt.exporter.bundle_writer import file_spec, write_manifest
from omnigen2_rt.exporter.quantize.calibration import PROMPTS, Calibration, calibration_of, read_prompts
from omnigen2_rt.exporter.quantize.input_statistics import (
    StatisticsCollector,
    collect_statistics,
    write_calibration_graph,
)
from omnigen2_rt.exporter.weights.placement import place
from omnigen2_rt.runtime.bundle import CALIBRATION, Bundle
from omnigen2_rt.runtime.errors import BackendError, BundleError, ExportError, RequestError

SMALL = Calibration(prompts=("a red cube",), size_px=32, steps=2, threads=1)


@pytest.fixture
def linked(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """A folder with the weights of A."""
    for spec in Bundle.open(bundles["A"]).manifest.files:
        place(bundles["A"] / spec.file, tmp_path / spec.file)
    return tmp_path


def test_calibration_graph_gives_the_largest_the_mean_square_and_the_products_of_what_is_multiplied(
    bundles: dict[str, Path], linked: Path
) -> None:
    spec = Bundle.open(bundles["A"]).graph("context_refiner", "fp32")
    file = linked / write_calibration_graph(spec, bundles["A"], linked, with_products=True).file
    model = onnx.load(file, load_external_data=False)
    product = next(node for node in model.graph.node if node.op_type == "MatMul" and "Add" not in _users(model, node))
    model.graph.output.append(onnx.helper.make_tensor_value_info(product.input[0], onnx.TensorProto.FLOAT, None))
    onnx.save(model, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    shapes = {"prompt_embeds": (1, 5, spec.inputs["prompt_embeds"].shape[2]), "cos": (5, 12), "sin": (5, 12)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    name = "context_refiner.0.attn.to_k.weight"
    kinds = [f"{kind}:{name}" for kind in ("largest", "mean_square", "products")]
    value, largest, square, products = session.run([product.input[0], *kinds], feeds)
    assert np.array_equal(largest, np.abs(value).max(axis=(0, 1)))
    assert np.allclose(square, np.square(value).mean(axis=(0, 1)), rtol=1e-5)
    rows = value.reshape(-1, value.shape[-1])
    assert np.allclose(products, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-5)


def _users(model: onnx.ModelProto, node: onnx.NodeProto) -> list[str]:
    return [other.op_type for other in model.graph.node if node.output[0] in other.input]


def test_every_linear_of_what_draws_has_statistics_and_no_graph_is_left(bundles: dict[str, Path], linked: Path) -> None:
    bundle = Bundle.open(bundles["A"])
    for spec in bundle.manifest.graphs:
        place(bundle.path / spec.file, linked / spec.file)
    progress: list[tuple[int, int]] = []
    components = ("reference_embedder", "transformer")
    statistics = collect_statistics(
        bundle, linked, components, SMALL, lambda done, total, what: progress.append((done, total))
    )
    assert progress == [(1, 1)]
    assert [len(statistics[name]) for name in components] == [2 * 4, 3 * 4 + 1]
    for one in (*statistics["transformer"].values(), *statistics["reference_embedder"].values()):
        assert np.all(one.largest > 0) and np.all(one.mean_square <= one.largest**2)
    assert not [path for path in linked.rglob("*") if path.name.startswith("calibration")]


def test_several_runs_keep_the_largest_and_the_mean() -> None:
    collector = StatisticsCollector()
    collector.add({"largest:w": np.array([1.0, 5.0], np.float32), "mean_square:w": np.array([1.0, 4.0], np.float32)})
    collector.add({"largest:w": np.array([2.0, 3.0], np.float32), "mean_square:w": np.array([3.0, 4.0], np.float32)})
    statistics = collector.statistics()["w"]
    assert statistics.products is None
    assert (statistics.largest.tolist(), statistics.mean_square.tolist()) == ([2, 5], [2, 4])


def test_prompts_are_a_file_s_lines_that_hold_something(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a cat\n\n  ein Würfel \n", encoding="utf-8")
    assert read_prompts(file) == ("a cat", "ein Würfel")


def test_prompts_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n \n")
    (tmp_path / "picture").write_bytes(b"\xff\xd8\xff")
    for name, reason in {"empty": "holds no prompt", "picture": "not UTF-8", "missing": "No such file"}.items():
        with pytest.raises(ExportError, match=reason):
            read_prompts(tmp_path / name)
    with pytest.raises(ExportError, match="no prompt to calibrate with"):
        Calibration(prompts=())


def test_calibration_with_a_number_out_of_range_is_refused_at_once() -> None:
    with pytest.raises(RequestError, match="height_px=8"):
        Calibration(size_px=8)
    with pytest.raises(BackendError, match="threads=0"):
        Calibration(threads=0)


def test_a_bundle_brings_its_own_prompts_and_size(bundles: dict[str, Path], tmp_path: Path) -> None:
    assert calibration_of(Bundle.open(bundles["B"])).prompts == PROMPTS
    own = tmp_path / "bundle"
    shutil.copytree(bundles["B"], own)
    (own / CALIBRATION).write_text("a red circle on blue\npaint it green\n", encoding="utf-8")
    with pytest.raises(BundleError, match=f"{CALIBRATION}' isn't listed in its bundle: name it with --prompts"):
        calibration_of(Bundle.open(own))
    assert calibration_of(Bundle.open(own), prompts=("a cat",)).prompts == ("a cat",)
    manifest = Bundle.open(own).manifest
    write_manifest(own, replace(manifest, files=(*manifest.files, file_spec(own, CALIBRATION))))
    opened = Bundle.open(own)
    assert calibration_of(opened).prompts == ("a red circle on blue", "paint it green")
    assert calibration_of(opened, prompts=("a cat",), steps=3, threads=None) == replace(
        calibration_of(opened), prompts=("a cat",), steps=3
    )
    assert calibration_of(opened).size_px == min(256, opened.manifest.vae.sample_px)


def test_default_prompts_are_several_different_ones() -> None:
    assert len(set(PROMPTS)) == len(PROMPTS) >= 4


def test_weights_that_would_fill_the_memory_are_limited_to_half_of_it(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Bundle.open(bundles["B"])
    weights = sum(graph.resident_bytes for graph in opened.manifest.graphs if graph.precision == "fp32")
    for memory, limit in ((2 * weights, None), (2 * weights - 2, weights - 1)):
        monkeypatch.setattr("omnigen2_rt.exporter.quantize.calibration.usable_memory_bytes", lambda memory=memory: memory)
        assert calibration_of(opened).memory_limit_bytes == limit
        assert calibration_of(opened, memory_limit_bytes=5).memory_limit_bytes == 5
