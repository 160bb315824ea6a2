"""Each scheme on real bundles: what the new bundle holds, that it runs, and how far it lies from the old one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from omnigen2_rt import Request, load
from omnigen2_rt.exporter.quantize import bundle as quantize
from omnigen2_rt.exporter.quantize.bundle import REPORT, WEIGHTS, quantize_bundle
from omnigen2_rt.exporter.quantize.rewrite import CODES, SPLIT
from omnigen2_rt.exporter.quantize.schemes import DRAWING, LANGUAGE, SCHEMES
from omnigen2_rt.runtime.backends import resident_bytes
from omnigen2_rt.runtime.backends.openvino.rewrite_reports import RewriteReport
from omnigen2_rt.runtime.backends.openvino.rewrites import read_rewritten
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BundleError, ExportError
from omnigen2_rt.runtime.manifest import MANIFEST
from omnigen2_rt.runtime.mllm.language_model import Tokens
from tests.exporter.quantize.conftest import SMALL
from tests.runtime.goldens import CPU_BACKENDS, arguments, arrays

MOST = {
    "int8-weights": {"language_model": 0.1, "lm_head": 0.02, "drawing": 0.03},
    "int4-weights": {"language_model": 0.7, "lm_head": 0.02, "drawing": 0.25},
    "int8": {"drawing": 0.1},
    "fp8": {"language_model": 0.1, "lm_head": 0.02, "drawing": 0.15},
}
"""The largest relative error of a component's outputs. Tiny random networks amplify every rounding: 4 bits more than most."""
BUNDLES = [(scheme, config) for scheme in SCHEMES for config in ("A", "B")]


def graph(bundle: Path, name: str) -> onnx.ModelProto:
    return onnx.load(bundle / name, load_external_data=False)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(("scheme", "config"), BUNDLES)
def test_new_bundle_is_whole_and_the_old_one_as_it_was(
    quantized: dict[tuple[str, str], Path], bundles: dict[str, Path], scheme: str, config: str
) -> None:
    new, old = Bundle.open(quantized[scheme, config]), Bundle.open(bundles[config])
    new.verify()
    old.verify()
    assert new.manifest.tools["quantized"] == scheme and "quantized" not in old.manifest.tools
    assert {spec.file for spec in new.manifest.files} - {spec.file for spec in old.manifest.files} == {WEIGHTS, REPORT}
    for spec in old.manifest.files:
        assert (new.path / spec.file).stat().st_ino == (old.path / spec.file).stat().st_ino
    for component in SCHEMES[scheme].components:
        before, after = old.graph(component, "fp32"), new.graph(component, "fp32")
        assert after.resident_bytes < before.resident_bytes
        stored = onnx.load(new.path / after.file, load_external_data=False).graph.initializer
        places = [{entry.key: entry.value for entry in tensor.external_data} for tensor in stored]
        rounded = sum(int(place["length"]) for place in places if place.get("location") == WEIGHTS)
        assert 0 < rounded == after.rounded_bytes
        assert resident_bytes(after, "bf16") - rounded == (resident_bytes(after, "fp32") - rounded) // 2
        assert (before.inlined is None) == (after.inlined is None)


@pytest.mark.parametrize(("scheme", "config"), BUNDLES)
def test_outputs_are_near_those_before_and_not_the_same(
    quantized: dict[tuple[str, str], Path], scheme: str, config: str
) -> None:
    report = json.loads((quantized[scheme, config] / REPORT).read_text())
    assert [row["component"] for row in report["components"]] == [*SCHEMES[scheme].components]
    for row in report["components"]:
        most = MOST[scheme]["drawing" if row["component"] in DRAWING else row["component"]]
        assert 0 < row["relative_error"] < most, row
        assert 0 < row["bytes_after"] and row["bytes_after"] < row["bytes_before"]
    assert [row["drawing"] for row in report["drawings"]] == ["text to image", "image editing"]
    assert all(row["psnr_db"] is None or row["psnr_db"] > 20 for row in report["drawings"])


def test_more_bits_are_nearer(quantized: dict[tuple[str, str], Path]) -> None:
    def error(scheme: str) -> float:
        report = json.loads((quantized[scheme, "B"] / REPORT).read_text())
        return {row["component"]: row["relative_error"] for row in report["components"]}["transformer"]

    assert error("int8-weights") < error("int8") < error("fp8") < error("int4-weights")


@pytest.mark.parametrize("config", ["A", "B"])
def test_hidden_states_and_logits_stay_near_the_original(quantized: dict[tuple[str, str], Path], config: str) -> None:
    """Against the recordings of the original: 8-bit weights alone are 2 to 4 % here, 8-bit activations 1.5 % more."""
    args, recorded = arguments(config, "mllm")["chat0"], arrays(config, "mllm")
    with load(quantized["int8-weights", config], backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        model = pipeline.language_model
        hidden, _ = model.read(Tokens.text(pipeline.prompt_encoder.tokenizer.encode(args["text"])))
        logits = model.logits(hidden[-1])
    for actual, expected in ((hidden, recorded["chat0_hidden_full"][0]), (logits, recorded["chat0_logits_last"][0])):
        error = float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))
        assert 0 < error < 0.1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_engines_draw_and_talk_alike(quantized: dict[tuple[str, str], Path], scheme: str) -> None:
    """OpenVINO reads the twins without functions. ONNX Runtime rounds what a weight in blocks is multiplied with as well."""
    latents = []
    for backend in CPU_BACKENDS:
        with load(quantized[scheme, "B"], backend=backend, precision="fp32", threads=1) as pipeline:
            latents.append(pipeline.generate(Request(prompt="a cat", width_px=32, height_px=32, steps=1)).latents)
            assert pipeline.chat("What is in the picture?", max_new_tokens=2, may_draw=False).token_ids
    most = 0.15 if scheme == "fp8" else 0.05  # E4M3's steps are large: a value between two may be rounded differently
    assert np.linalg.norm(latents[0] - latents[1]) < most * np.linalg.norm(latents[0])


@pytest.mark.parametrize("scheme", ["int4-weights", "fp8"])
def test_bundle_of_links_draws_the_same_on_openvino(
    quantized: dict[tuple[str, str], Path], tmp_path: Path, scheme: str
) -> None:
    """OpenVINO gets the codes of linked files from us, in types that numpy has no name for."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "main"
    blobs.mkdir(parents=True)
    for number, path in enumerate(filter(Path.is_file, sorted(quantized[scheme, "B"].rglob("*")))):
        name, blob = snapshot / path.relative_to(quantized[scheme, "B"]), blobs / f"{number:040x}"
        name.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        name.symlink_to(os.path.relpath(blob, name.parent))
    latents = []
    for path in (quantized[scheme, "B"], snapshot):
        with load(path, backend="openvino", precision="fp32", threads=1) as pipeline:
            latents.append(pipeline.generate(Request(prompt="a cat", width_px=32, height_px=32, steps=1)).latents)
    np.testing.assert_array_equal(*latents)


@pytest.mark.parametrize(("scheme", "config"), BUNDLES)
def test_graphs_are_of_standard_operators_and_multiply_no_stored_weight_of_a_block(
    quantized: dict[tuple[str, str], Path], scheme: str, config: str
) -> None:
    bundle = Bundle.open(quantized[scheme, config])
    for component, storage in SCHEMES[scheme].components.items():
        spec = bundle.graph(component, "fp32")
        model = graph(bundle.path, spec.file)
        assert {entry.domain for entry in model.opset_import} <= {"", "omnigen2"}
        assert {node.domain for node in model.graph.node} <= {"", "omnigen2"}
        weights = {t.name: t.data_type for t in model.graph.initializer if t.name.endswith(".codes")}
        assert set(weights.values()) == {CODES[storage.codes].value}
        linear = (".attn.to_q.weight", "linear_1.weight", "q_proj.weight", "gate_proj.weight", "embed_tokens.weight")
        assert not any(t.name.endswith(linear) for t in model.graph.initializer)
        assert kinds(model).count("DequantizeLinear") == len(weights) + kinds(model).count("QuantizeLinear")
        assert ("QuantizeLinear" in kinds(model)) == storage.rounds_inputs
        onnx.checker.check_model(_without_files(model))
        if spec.inlined is not None:
            twin = graph(bundle.path, spec.inlined)
            assert {node.domain for node in twin.graph.node} == {""} and not twin.functions
            for kind in ("DequantizeLinear", "QuantizeLinear", "MatMul"):
                assert kinds(twin).count(kind) == kinds(model).count(kind)


def _without_files(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its stored weights as inputs: the checker refuses files with several hard links."""
    for tensor in [t for t in model.graph.initializer if t.external_data]:
        model.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        model.graph.initializer.remove(tensor)
    return model


def test_linears_that_embed_and_modulate_stay_as_they_are(quantized: dict[tuple[str, str], Path]) -> None:
    for component, names in {
        "transformer": ("norm1.linear.weight",),
        "context_refiner": ("caption_embedder.1.weight",),
        "latent_embedder": ("x_embedder.weight", "norm1.linear.weight"),
    }.items():
        held = [t.name for t in graph(quantized["int4-weights", "A"], f"{component}.fp32.onnx").graph.initializer]
        for name in names:
            assert any(one.endswith(name) for one in held), name


def test_widths_that_no_block_divides_get_zeros_at_their_end(quantized: dict[tuple[str, str], Path]) -> None:
    model = graph(quantized["int4-weights", "B"], "transformer.fp32.onnx")
    codes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    assert codes["layers.0.attn.to_q.weight.codes"][0] == 160 and "Pad" in kinds(model)  # of 140
    assert "Pad" not in kinds(graph(quantized["int4-weights", "A"], "transformer.fp32.onnx"))


def test_linears_that_read_one_rounded_value_become_one_product(quantized: dict[tuple[str, str], Path]) -> None:
    names = [node.name for node in graph(quantized["int8", "A"], "transformer.fp32.onnx").graph.node]
    # Three layers: what q, k and v read, to_out, the two gates, linear_2. The last one's q reads the image's part alone.
    assert sum(name.endswith(".quantizelinear_input") for name in names) == 3 * 4 + 1
    assert sum(name.endswith(SPLIT) for name in names) == 3 + 3


def test_openvino_takes_joined_products_of_8_bit_numbers_apart(quantized: dict[tuple[str, str], Path]) -> None:
    bundle = Bundle.open(quantized["int8", "A"])
    spec = bundle.graph("transformer", "fp32")
    assert spec.inlined is not None
    splits = [node for node in graph(bundle.path, spec.inlined).graph.node if node.name.endswith(SPLIT)]
    reports = {report.name: report for report in read_rewritten(bundle, spec, "fp32", pads=True).reports}
    assert reports["take_products_apart"] == RewriteReport("take_products_apart", len(splits)) and splits


@pytest.mark.parametrize(("scheme", "kind"), [("int8", "MatMulIntegerToFloat"), ("int4-weights", "MatMulNBits")])
def test_onnx_runtime_multiplies_every_rounded_weight_in_few_bits(
    quantized: dict[tuple[str, str], Path], tmp_path: Path, scheme: str, kind: str
) -> None:
    """Regression: products that read one rounded value together were computed in float32, without a word."""
    file, options = quantized[scheme, "B"] / "transformer.fp32.onnx", onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 4
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    run, weights = kinds(graph(tmp_path, "run.onnx")), graph(file.parent, file.name).graph.initializer
    assert run.count(kind) == sum(t.name.endswith(".codes") for t in weights) > 0
    assert "DequantizeLinear" not in run


def test_scheme_of_ones_own_needs_no_entry(bundles: dict[str, Path], tmp_path: Path) -> None:
    head = replace(
        SCHEMES["int8-weights"], name="head", components={"lm_head": SCHEMES["int8-weights"].components["lm_head"]}
    )
    report = quantize_bundle(bundles["B"], tmp_path / "new", head, calibration=SMALL)
    assert [row.component for row in report.components] == ["lm_head"]
    assert all(row.relative_error == 0 and row.psnr_db is None for row in report.drawings)


def test_bundle_that_cannot_be_quantized_says_why(
    quantized: dict[tuple[str, str], Path], bundles: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="exists: choose another name"):
        quantize_bundle(bundles["A"], tmp_path, "int8")
    with pytest.raises(ExportError, match="is int8 already: it was quantized before"):
        quantize_bundle(quantized["int8", "A"], tmp_path / "again", "int8-weights")
    with pytest.raises(ExportError, match=r"scheme 'int3' is unknown; choose int8-weights, int4-weights, int8, fp8$"):
        quantize_bundle(bundles["A"], tmp_path / "new", "int3")
    assert list(tmp_path.iterdir()) == []


def test_bundle_without_fp32_says_how_to_get_it(bundles: dict[str, Path], tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundles["B"], tmp_path / "bundle"))
    text = (bundle / MANIFEST).read_text().replace('"precision": "fp32"', '"precision": "bf16"')
    (bundle / MANIFEST).write_text(text)
    with pytest.raises(ExportError, match="has no language_model graph in fp32: export it with --precision fp32"):
        quantize_bundle(bundle, tmp_path / "new", "int8-weights")


KILLED = """
import os, signal, sys
from omnigen2_rt.exporter.quantize import bundle as quantize
quantize.measure = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
quantize.quantize_bundle(sys.argv[1], sys.argv[2], "int8-weights")
"""


def test_killed_run_leaves_nothing_valid_and_the_next_one_succeeds(bundles: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "new"
    finished = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, bundles["B"], target], capture_output=True)
    assert finished.returncode == -signal.SIGKILL, finished.stderr.decode()
    assert not target.exists()
    (unfinished,) = tmp_path.iterdir()
    with pytest.raises(BundleError, match="it is an unfinished bundle; run the same"):
        Bundle.open(unfinished / "new")
    Bundle.open(bundles["B"]).verify()
    quantize_bundle(bundles["B"], target, "int8-weights", calibration=SMALL)
    assert os.listdir(tmp_path) == ["new"]


def test_full_disk_is_one_line(bundles: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device", "a file")

    monkeypatch.setattr(quantize, "write_tensors", full)
    with pytest.raises(ExportError, match="can't write 'a file': No space left on device"):
        quantize_bundle(bundles["B"], tmp_path / "new", "int8-weights", calibration=SMALL)
    assert not (tmp_path / "new").exists()


def test_language_components_are_the_same_in_both_weight_schemes() -> None:
    assert all({*LANGUAGE} <= {*SCHEMES[name].components} for name in ("int8-weights", "int4-weights"))
