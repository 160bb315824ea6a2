"""8-bit weights for the language model: what the new bundle holds, and how far its answers lie from float32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from omnigen2_rt import Request, load
from omnigen2_rt.exporter.quantize import WEIGHTS, quantize_language_model
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import ExportError
from omnigen2_rt.runtime.language_model import Context
from tests.runtime.goldens import arguments, arrays

QUANTIZED = ("language_model", "lm_head")


@pytest.fixture(scope="module")
def small(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Bundles with 8-bit weights; A is stored in bfloat16, so a Cast stands before its weights."""
    folder = tmp_path_factory.mktemp("small")
    return {name: quantize_language_model(bundle, folder / name) for name, bundle in bundles.items()}


@pytest.mark.parametrize("config", ["A", "B"])
def test_hidden_states_and_logits_stay_near_the_original(small: dict[str, Path], config: str) -> None:
    """Tiny random networks amplify every rounding: 8-bit weights alone are 2 to 4 % here, 8-bit activations 1.5 % more."""
    args, recorded = arguments(config, "mllm")["chat0"], arrays(config, "mllm")
    with load(small[config], backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        model = pipeline._language_model
        hidden, _ = model.read(Context(), pipeline._prompts.tokenizer.encode(args["text"]))
        logits = model.logits(hidden[-1])
    for given, wanted in ((hidden, recorded["chat0_hidden_full"][0]), (logits, recorded["chat0_logits_last"][0])):
        error = float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))
        assert 0 < error < 0.08


def test_graphs_hold_every_linear_in_8_bits_and_standard_operators(small: dict[str, Path]) -> None:
    for name in QUANTIZED:
        model = onnx.load(small["A"] / f"{name}.fp32.onnx", load_external_data=False)
        kinds = [node.op_type for node in model.graph.node]
        assert kinds.count("DequantizeLinear") == kinds.count("MatMul") > 0 and "Gemm" not in kinds
        assert {entry.domain for entry in model.opset_import} <= {""}
        places = {entry.value for t in model.graph.initializer for entry in t.external_data if entry.key == "location"}
        assert WEIGHTS in places
        assert not any(t.name.endswith(("proj.weight", "embed_tokens.weight")) for t in model.graph.initializer)


def test_bundle_is_whole_and_the_old_one_as_it_was(small: dict[str, Path], bundles: dict[str, Path]) -> None:
    Bundle.open(small["B"]).verify()
    Bundle.open(bundles["B"]).verify()
    old, new = (Bundle.open(folder["B"]).graph("language_model", "fp32").resident_bytes for folder in (bundles, small))
    assert new < old / 2.5
    assert Bundle.open(small["B"]).manifest.tools["quantized"] == "int8-weights"
    for spec in Bundle.open(bundles["B"]).manifest.files:
        assert (small["B"] / spec.file).stat().st_ino == (bundles["B"] / spec.file).stat().st_ino


def test_bundle_with_8_bit_weights_draws_and_talks(small: dict[str, Path]) -> None:
    with load(small["A"], backend="ort-cpu", precision="fp32", threads=1) as pipeline:
        assert pipeline.chat("What is in the picture?", max_new_tokens=4, may_draw=False).token_ids
        assert pipeline.generate(Request(prompt="a cat", width_px=32, height_px=32, steps=1)).images


def test_bundle_that_cannot_be_quantized_says_why(
    small: dict[str, Path], bundles: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="exists: choose another name"):
        quantize_language_model(bundles["A"], tmp_path)
    with pytest.raises(ExportError, match="it was quantized before"):
        quantize_language_model(small["A"], tmp_path / "again")
    assert not (tmp_path / "again").exists()
