"""The names that tools give to a LoRA's tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from omnigen2_rt.exporter.weights.lora import merge_lora
from omnigen2_rt.exporter.weights.lora_names import lora_names
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.weights.lora_files import MODULE, RANK, lora, pair, places, strength

FLAT = MODULE.replace(".", "_")
KOHYA = ("lora_down.weight", "lora_up.weight")


@pytest.mark.parametrize(
    "prefix",
    [
        "", "transformer.", "diffusion_model.", "model.diffusion_model.", "base_model.model.", "base_model.model.transformer.",
        "module.", "_orig_mod.", "module._orig_mod.", "transformer._orig_mod.", "model.",
    ],
)  # fmt: skip
def test_prefix_of_any_tool_is_matched(prefix: str, tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": RANK} if "base_model" in prefix else None
    assert strength(lora(tmp_path, prefix + MODULE, adapter_config=settings), tmp_path) == pytest.approx(1, rel=1e-4)


def test_wrapper_within_a_name_is_matched(tmp_path: Path) -> None:
    assert strength(lora(tmp_path, "layers.0._orig_mod.attn.to_out.0"), tmp_path) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("prefix", ["lora_unet_", "lora_transformer_", "lycoris_", "lora_unet_model_diffusion_model_"])
def test_name_of_underscores_is_matched_and_its_alpha_counts(prefix: str, tmp_path: Path) -> None:
    """Kohya's and LyCORIS' names were refused as another model's."""
    file = lora(tmp_path, prefix + FLAT, sides=KOHYA, more={f"{prefix}{FLAT}.alpha": np.array(2.0, np.float16)})
    assert strength(file, tmp_path) == pytest.approx(2 / RANK, rel=1e-4)


@pytest.mark.parametrize("sides", [("lora_A.default.weight", "lora_B.default.weight"), ("lora.down.weight", "lora.up.weight")])
def test_older_and_named_forms_are_matched(sides: tuple[str, str], tmp_path: Path) -> None:
    assert strength(lora(tmp_path, sides=sides), tmp_path) == pytest.approx(1, rel=1e-4)


def test_name_of_underscores_that_two_modules_share_is_refused() -> None:
    names = ["lora_unet_a_b_c.lora_down.weight"]
    assert lora_names("x", names, ["a.b_c"]).sides == {"a.b_c": {"down": names[0]}}
    with pytest.raises(ExportError, match="changes 'lora_unet_a_b_c', which this transformer has not"):
        lora_names("x", names, ["a.b_c", "a_b.c"])


ONE = np.ones(1, np.float32)
REFUSED = {
    "two adapters": (
        {f"{MODULE}.lora_A.style.weight": pair()[0], f"{MODULE}.lora_B.style.weight": pair()[1]}, "two tensors for one place",
    ),
    "two adapters of other modules": (
        {"layers.1.attn.to_out.0.lora_A.style.weight": pair()[0], "layers.1.attn.to_out.0.lora_B.style.weight": pair()[1]},
        "holds several adapters, style, unnamed",
    ),
    "two names of one module": ({f"transformer.{MODULE}.lora_A.weight": pair()[0]}, "two tensors for one place: "),
    "LoHa": ({f"lycoris_{FLAT}.hada_w1_a": ONE}, "so it is a LoHa"),
    "LoKr": ({f"lycoris_{FLAT}.lokr_w1": ONE}, "so it is a LoKr"),
    "DoRA of Kohya": ({f"lora_unet_{FLAT}.dora_scale": ONE}, "so it is a DoRA"),
    "DoRA of PEFT": ({f"{MODULE}.lora_magnitude_vector.weight": ONE}, "so it is a DoRA"),
    "difference": ({f"{MODULE}.diff": ONE}, "so it is a full difference"),
    "bias": ({f"{MODULE}.lora_B.bias": ONE}, "lora_A, lora_B and alpha are supported"),
    "text encoder of Kohya": ({"lora_te1_text_model_layers_0.lora_down.weight": pair()[0]}, "also changes the text encoder"),
    "text encoder of diffusers": ({"text_encoder.layers.0.lora_A.weight": pair()[0]}, "also changes the text encoder"),
    "alpha alone": ({"layers.1.attn.to_q.alpha": ONE}, "an alpha and no matrices for layers.1.attn.to_q"),
    "alpha of zero": ({f"{MODULE}.alpha": 0 * ONE}, "an alpha is a finite number other than 0"),
    "unknown name": ({"surprise": ONE}, "has the tensor 'surprise'"),
}  # fmt: skip


@pytest.mark.parametrize(("more", "message"), REFUSED.values(), ids=REFUSED)
def test_tensor_that_can_not_be_merged_is_refused_by_name(more: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        merge_lora(lora(tmp_path, more=more), 1.0, places(), tmp_path / "merged.safetensors")
    assert not (tmp_path / "merged.safetensors").exists()
