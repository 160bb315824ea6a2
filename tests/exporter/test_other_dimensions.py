"""Checkpoints of other dimensions than the recorded ones, random weights: exported, drawn with, and held to the reference."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.verify import compare as comparison
from omnigen2_rt.exporter.verify.compare import Report, compare
from omnigen2_rt.reference.mllm import MLLM, MLLMConfig
from omnigen2_rt.reference.transformer import Transformer, TransformerConfig
from omnigen2_rt.reference.vae import VAE, VAEConfig
from omnigen2_rt.reference.vision import VisionConfig
from tests.exporter.checkpoints import A, copied, edit_json


def fill(folder: Path, network: torch.nn.Module, dtype: torch.dtype, names: dict[str, str] | None = None) -> None:
    """Random weights for a network, in place of those that the folder holds."""
    for old in folder.glob("*.safetensors"):
        name = old.name
        old.unlink()
    tensors = {}
    for key, value in network.state_dict().items():
        for ours, theirs in (names or {}).items():
            if key.startswith(ours):
                key = theirs + key.removeprefix(ours)
                break
        tensors[key] = (value + 0.02 * torch.randn(value.shape)).to(dtype).contiguous()
    save_file(tensors, folder / name)


def random_checkpoint(tmp: Path, tied: bool) -> Path:
    torch.manual_seed(11)
    checkpoint = copied(A, tmp)
    transformer: dict[str, Any] = {"hidden_size": 72, "num_attention_heads": 3, "num_kv_heads": 1, "num_layers": 2,
                                   "num_refiner_layers": 1, "in_channels": 8, "axes_dim_rope": [8, 8, 8],
                                   "multiple_of": 7, "ffn_dim_multiplier": 0.7, "text_feat_dim": 48}  # fmt: skip
    vae: dict[str, Any] = {"latent_channels": 8, "layers_per_block": 2, "block_out_channels": [8, 16, 8],
                           "norm_num_groups": 4, "mid_block_add_attention": False,
                           "down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3,
                           "scaling_factor": 0.5, "shift_factor": None}  # fmt: skip
    mllm: dict[str, Any] = {"hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1,
                            "num_hidden_layers": 1, "intermediate_size": 37, "tie_word_embeddings": tied}  # fmt: skip
    vision = {"out_hidden_size": 48, "depth": 2, "fullatt_block_indexes": [0]}
    edit_json(checkpoint / "transformer/config.json", **transformer)
    edit_json(checkpoint / "vae/config.json", **vae)
    edit_json(checkpoint / "mllm/config.json", **mllm)
    data = json.loads((checkpoint / "mllm/config.json").read_text())
    edit_json(checkpoint / "mllm/config.json", vision_config={**data["vision_config"], **vision})
    configs = {part: json.loads((checkpoint / part / "config.json").read_text()) for part in ("transformer", "vae", "mllm")}
    fill(checkpoint / "transformer", Transformer(TransformerConfig.from_json(configs["transformer"])), torch.bfloat16)
    fill(checkpoint / "vae", VAE(VAEConfig.from_json(configs["vae"])), torch.float16)
    language = MLLM(MLLMConfig.from_json(configs["mllm"]), VisionConfig.from_json(configs["mllm"]))
    names = {"language_model.head.": "lm_head.", "language_model.": "model.", "visual.": "visual."}
    fill(checkpoint / "mllm", language, torch.float32, names)
    return checkpoint


def report_of(
    checkpoint: Path, names: Collection[str], tmp: Path, monkeypatch: pytest.MonkeyPatch, drawings: bool = True
) -> Report:
    """The comparison with the reference of an export of these components."""
    chosen = tuple(component for component in COMPONENTS if component.name in names)
    monkeypatch.setattr(comparison, "COMPONENTS", chosen)
    if not drawings:
        monkeypatch.setattr(comparison, "_requests", lambda *_: {})
    export_bundle(checkpoint, tmp / "bundle", precisions=("fp32",), components=chosen)
    return compare(checkpoint, tmp / "bundle", steps=2, height_px=24, width_px=40, threads=1)


@pytest.mark.slow
def test_checkpoint_of_other_dimensions_draws_as_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {component.name for component in COMPONENTS} - {"cache_signal", "blend"}
    report = report_of(random_checkpoint(tmp_path, tied=False), names, tmp_path, monkeypatch)
    assert report.within_tolerance, report.table()


def test_checkpoint_whose_head_is_its_embedding_speaks_as_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = report_of(random_checkpoint(tmp_path, tied=True), {"lm_head"}, tmp_path, monkeypatch, drawings=False)
    assert report.within_tolerance, report.table()
