"""The factor that a LoRA's file means, by every way of saying it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnigen2_rt.exporter.weights.lora import Lora, merge_lora, merge_loras, report_lora
from omnigen2_rt.exporter.weights.tensor_file import read_tensor
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.weights.lora_files import MODULE, RANK, lora, pair, places, strength

PEFT: dict[str, Any] = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "use_rslora": False, "bias": "none"}
PEFT_FILE = "adapter_model.safetensors"


def diffusers(**settings: Any) -> dict[str, str]:
    return {"format": "pt", "lora_adapter_metadata": json.dumps({f"transformer.{key}": value for key, value in settings.items()})}


@pytest.mark.parametrize("given", ["the folder", "the file"])
def test_adapter_of_peft_has_the_alpha_of_its_config(given: str, tmp_path: Path) -> None:
    """adapter_config.json was not read: an alpha of 16 for rank 4 counted as 1."""
    file = lora(tmp_path / "adapter", f"base_model.model.{MODULE}", file=PEFT_FILE, adapter_config=PEFT)
    assert strength(file if given == "the file" else file.parent, tmp_path) == pytest.approx(4, rel=1e-4)


STATED = {
    "rank-stabilised by diffusers": ({"metadata": diffusers(r=RANK, lora_alpha=16, use_rslora=True)}, 16 / RANK**0.5),
    "plain by diffusers": ({"metadata": diffusers(r=RANK, lora_alpha=16, use_rslora=False, use_dora=False)}, 16 / RANK),
    "alpha by pattern": ({"metadata": diffusers(r=RANK, lora_alpha=16, alpha_pattern={MODULE: 8})}, 2),
    "alpha by a name's end": ({"metadata": diffusers(r=RANK, lora_alpha=16, alpha_pattern={"to_out.0": 8})}, 2),
    "rank by pattern": ({"metadata": diffusers(r=64, lora_alpha=16, rank_pattern={MODULE: RANK})}, 4),
    "Kohya's metadata": (
        {"metadata": {"ss_network_alpha": "8.0", "ss_network_dim": "4"}, "sides": ("lora_down.weight", "lora_up.weight")}, 2,
    ),
    "Kohya's alpha of 0, which means the rank": ({"metadata": {"ss_network_alpha": "0"}}, 1),
    "alpha that is an integer": ({"more": {f"{MODULE}.alpha": np.array(8)}}, 2),
    "tensor beside a training's other alpha": (
        {"metadata": {"ss_network_alpha": "1"}, "more": {f"{MODULE}.alpha": np.array(8, np.float32)}}, 2,
    ),
    "lora_alpha in metadata": ({"metadata": {"lora_alpha": "8", "rank": str(RANK)}}, 2),
    "network_alpha in metadata": ({"metadata": {"network_alpha": "8"}}, 2),
    "alpha in metadata": ({"metadata": {"alpha": "8"}}, 2),
    "rank-stabilised in metadata": ({"metadata": {"lora_alpha": "8", "use_rslora": "True"}}, 8 / RANK**0.5),
    "settings of PEFT in metadata": ({"metadata": {"lora_config": json.dumps(PEFT)}}, 4),
    "no value in metadata": ({"metadata": {"ss_network_alpha": "None", "ss_network_dim": "Dynamic"}}, 1),
    "tensor and metadata that agree": (
        {"metadata": {"ss_network_alpha": "8"}, "more": {f"{MODULE}.alpha": np.array(8, np.float32)}}, 2,
    ),
    "LyCORIS, rank-stabilised": (
        {
            "metadata": {"ss_network_alpha": "8", "ss_network_args": json.dumps({"rs_lora": "True"})},
            "more": {f"{MODULE}.alpha": np.array(8 * RANK**0.5, np.float32)},
        },
        8 / RANK**0.5,
    ),
    "text encoder's settings as well": (
        {"metadata": {"lora_adapter_metadata": json.dumps({"text_encoder.lora_alpha": 3, "transformer.lora_alpha": 8})}}, 2,
    ),
    "adapter of PEFT under another name": ({"name": f"base_model.model.{MODULE}", "adapter_config": PEFT}, 4),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "factor"), STATED.values(), ids=STATED)
def test_strength_is_what_the_file_says(arguments: dict[str, Any], factor: float, tmp_path: Path) -> None:
    """Alphas in metadata and rank stabilisation were ignored."""
    assert strength(lora(tmp_path, **arguments), tmp_path) == pytest.approx(factor, rel=1e-4)


REFUSED = {
    "DoRA": ({"adapter_config": {**PEFT, "use_dora": True}}, "is a DoRA"),
    "other type": ({"adapter_config": {**PEFT, "peft_type": "LOHA"}}, "PEFT's type 'LOHA'"),
    "biases": ({"adapter_config": {**PEFT, "bias": "lora_only"}}, "changes biases"),
    "whole modules": ({"adapter_config": {**PEFT, "modules_to_save": ["x"]}}, r"modules_to_save=\['x'\]"),
    "PiSSA": ({"adapter_config": {**PEFT, "init_lora_weights": "pissa"}}, "belongs to changed weights"),
    "no alpha": ({"adapter_config": {"r": RANK}}, "has no lora_alpha, without which its strength is unknown"),
    "other rank": ({"adapter_config": {**PEFT, "r": 8}}, "have rank 4, adapter_config.json says 8"),
    "pattern of no module": ({"adapter_config": {**PEFT, "alpha_pattern": {"to_q": 3}}}, "'to_q', which the file doesn't change"),
    "pattern of an expression": ({"adapter_config": {**PEFT, "alpha_pattern": {"(a+)+$": 3}}}, "names of modules are allowed"),
    "config missing": ({}, "lacks adapter_config.json beside it"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_adapter_that_is_no_plain_lora_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        strength(lora(tmp_path, f"base_model.model.{MODULE}", file=PEFT_FILE, **arguments), tmp_path)


CONTRADICTIONS = {
    "tensor and metadata": (
        {"metadata": {"network_alpha": "4"}, "more": {f"{MODULE}.alpha": np.array(8, np.float32)}},
        "is 2 by its alpha tensor, 1 by the metadata network_alpha",
    ),
    "two spellings": ({"metadata": {"ss_network_alpha": "4", "lora_alpha": "8"}}, "contradicts itself: .*lora_alpha=8"),
    "a training's alpha under a converter's names": (
        {"metadata": {"ss_network_alpha": "1"}}, "the factor 0.25, which a converter may have put into the matrices",
    ),
    "unknown key": ({"metadata": {"transformer_lora_alpha": "8"}}, "may say its strength in its metadata transformer_lora_alpha"),
    "unknown object": (
        {"metadata": {"config": json.dumps({"a": {"lora_alpha": 8}})}}, "may say its strength in its metadata config",
    ),
    "PEFT's settings of another file": ({"adapter_config": PEFT}, "adapter_config.json lies beside it: name it adapter_model"),
    "PEFT's names without settings": ({"name": f"base_model.model.{MODULE}"}, "lacks adapter_config.json beside it"),
    "rank": ({"metadata": {"lora_alpha": "4", "rank": "16"}}, "have rank 4, the metadata lora_alpha and rank says 16"),
    "rslora without alpha": ({"metadata": {"use_rslora": "true"}}, "nothing says its alpha"),
    "alpha that is no number": ({"metadata": {"lora_alpha": "nan"}}, "the alpha 'nan' in its metadata"),
    "settings of another network": (
        {"metadata": {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 3})}}, "for unet.lora_alpha, none for the trans",
    ),
    "DoRA of LyCORIS": ({"metadata": {"ss_network_args": json.dumps({"dora_wd": True})}}, "is a DoRA"),
}  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_file_that_leaves_its_strength_open_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        strength(lora(tmp_path, **arguments), tmp_path)


def test_folder_of_two_loras_is_refused(tmp_path: Path) -> None:
    for file in (PEFT_FILE, "pytorch_lora_weights.safetensors"):
        lora(tmp_path / "both", file=file)
    with pytest.raises(ExportError, match="name the file that is meant"):
        strength(tmp_path / "both", tmp_path)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_number_that_is_not_finite_is_refused(number: float, tmp_path: Path) -> None:
    """A NaN was merged without a word; the bundle could draw nothing."""
    down, up = pair()
    up[3, 1] = number
    save_file({f"{MODULE}.lora_A.weight": down, f"{MODULE}.lora_B.weight": up}, tmp_path / "x.safetensors")
    with pytest.raises(ExportError, match=r"to_out.0.lora_B.weight' that isn't finite"):
        merge_lora(tmp_path / "x.safetensors", 1.0, places(), tmp_path / "merged.safetensors")


def test_merged_weight_beyond_a_precision_is_refused(tmp_path: Path) -> None:
    file = Lora(path=lora(tmp_path), scale=1e5)
    merge_loras([file], places(), tmp_path / "merged.safetensors", ("fp32", "bf16"))
    with pytest.raises(ExportError, match=f"merged into '{MODULE}', the LoRA gives numbers beyond fp16"):
        merge_loras([file], places(), tmp_path / "merged.safetensors", ("fp32", "fp16"))


def test_several_loras_are_all_merged(tmp_path: Path) -> None:
    """Regression: only the last one of several --lora options counted."""
    loras = [Lora(path=lora(tmp_path / name), scale=scale) for name, scale in (("one", 0.5), ("two", 2.0))]
    other = Lora(path=lora(tmp_path / "three", "layers.1.attn.to_out.0"))
    merged = merge_loras([*loras, other], places(), tmp_path / "merged.safetensors")
    down, up = pair()
    for module, factor in ((MODULE, 2.5), ("layers.1.attn.to_out.0", 1)):
        before = read_tensor(places()[f"{module}.weight"]).astype(np.float32)
        np.testing.assert_allclose(read_tensor(merged[f"{module}.weight"]) - before, factor * (up @ down), atol=1e-4)


def test_report_says_the_factor(tmp_path: Path) -> None:
    file = lora(tmp_path, metadata={"lora_alpha": "8"})
    report = str(report_lora(Lora(path=file, scale=0.5), places()))
    assert report == "LoRA lora.safetensors: 1 modules, scale 0.5 × the file's own factor 2 = 1"
