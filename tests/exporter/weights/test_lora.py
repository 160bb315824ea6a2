"""LoRAs: which tensors they write, what they come to, and which files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.weights.lora import merge_lora
from omnigen2_rt.exporter.weights.tensor_file import read_tensor
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.checkpoints import A

MODULE = "layers.0.attn.to_q"
RANK = 4


def lora(tmp: Path, prefix: str = "transformer.", metadata: dict[str, str] | None = None, **more: np.ndarray) -> Path:
    rng = np.random.default_rng(5)
    shape = Checkpoint.open(A).locations["transformer"][f"{MODULE}.weight"].shape
    tensors = {
        f"{prefix}{MODULE}.lora_A.weight": rng.standard_normal((RANK, shape[1])).astype(np.float32),
        f"{prefix}{MODULE}.lora_B.weight": rng.standard_normal((shape[0], RANK)).astype(np.float32),
        **{name.replace("__", "."): array for name, array in more.items()},
    }
    save_file({name: array for name, array in tensors.items() if array is not None}, tmp / "lora.safetensors", metadata)
    return tmp / "lora.safetensors"


def change(file: Path, tmp: Path, scale: float = 1.0) -> np.ndarray:
    """The matrix that merging adds to the module's weight."""
    places = Checkpoint.open(A).locations["transformer"]
    merged = merge_lora(file, scale, places, tmp / "merged.safetensors")
    moved = {name for name in places if merged[name] != places[name]}
    assert moved == {f"{MODULE}.weight"} and merged.keys() == places.keys()
    before = read_tensor(places[f"{MODULE}.weight"]).astype(np.float32)
    return np.asarray(read_tensor(merged[f"{MODULE}.weight"])) - before


def product(file: Path) -> np.ndarray:
    tensors = {name.rsplit(".lora_")[-1]: array for name, array in load_file(file).items()}
    return tensors["B.weight"] @ tensors["A.weight"]


def test_lora_writes_only_the_tensors_that_it_touches(tmp_path: Path) -> None:
    file = lora(tmp_path)
    np.testing.assert_allclose(change(file, tmp_path), product(file), atol=1e-5)


def test_lora_scale_and_alpha_multiply_the_change(tmp_path: Path) -> None:
    file = lora(tmp_path, **{f"transformer__{MODULE}__alpha": np.array(8.0, np.float32)})
    np.testing.assert_allclose(change(file, tmp_path, scale=0.5), 0.5 * 8 / RANK * product(file), atol=1e-5)


def test_lora_alpha_in_metadata_counts(tmp_path: Path) -> None:
    settings = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 2})}
    file = lora(tmp_path, metadata=settings)
    np.testing.assert_allclose(change(file, tmp_path), 2 / RANK * product(file), atol=1e-5)


REFUSED = {
    "DoRA": ({"metadata": {"lora_adapter_metadata": json.dumps({"transformer.use_dora": True})}}, "is a DoRA"),
    "no JSON": ({"metadata": {"lora_adapter_metadata": "{"}}, "metadata that is not JSON"),
    "magnitude": (
        {f"transformer__{MODULE}__lora_magnitude_vector__weight": np.zeros(3, np.float32)},
        "lora_A, lora_B and alpha are supported",
    ),
    "other model": (
        {
            "transformer__layers__9__attn__to_q__lora_A__weight": np.zeros((2, 96), np.float32),
            "transformer__layers__9__attn__to_q__lora_B__weight": np.zeros((96, 2), np.float32),
        },
        "changes 'layers.9.attn.to_q', which this transformer has not",
    ),
    "other shape": (
        {f"transformer__{MODULE}__lora_B__weight": np.zeros((95, RANK), np.float32)}, "a change of .*another model"
    ),
    "other rank": ({f"transformer__{MODULE}__lora_B__weight": np.zeros((96, 3), np.float32)}, "different ranks, .* and 3"),
    "half a pair": (
        {"transformer__layers__1__attn__to_q__lora_A__weight": np.zeros((2, 96), np.float32)}, "has no pair of lora_A and lora_B"
    ),
    "alpha of two numbers": (
        {f"transformer__{MODULE}__alpha": np.ones(2, np.float32)}, r"alpha' of shape \(2,\); an alpha is one number"
    ),
    "convolution": (
        {f"transformer__{MODULE}__lora_A__weight": np.zeros((RANK, 96, 1, 1), np.float32)}, "other than two matrices for layers.0"
    ),
    "rank of 0": (
        {
            f"transformer__{MODULE}__lora_A__weight": np.zeros((0, 96), np.float32),
            f"transformer__{MODULE}__lora_B__weight": np.zeros((96, 0), np.float32),
        },
        "other than two matrices",
    ),
    "list as metadata": ({"metadata": {"lora_adapter_metadata": "[]"}}, "metadata that is not a JSON object"),
    "word for alpha": (
        {"metadata": {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": "big"})}}, "alpha 'big' in its metadata"
    ),
    "integers": ({f"transformer__{MODULE}__lora_C__weight": np.array([[8]])}, "holds I64; allowed are F32, F16, BF16"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_lora_that_does_not_fit_is_refused(arguments: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    places = Checkpoint.open(A).locations["transformer"]
    with pytest.raises(ExportError, match=message):
        merge_lora(lora(tmp_path, **arguments), 1.0, places, tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()


def test_lora_that_is_nowhere_or_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("words")
    for name, message in (("absent", "does not exist"), ("text.safetensors", "can't be read")):
        with pytest.raises(ExportError, match=message):
            merge_lora(tmp_path / name, 1.0, {}, tmp_path / "merged.safetensors")
