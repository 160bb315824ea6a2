"""The language model's positions and rotary tables against the recorded ones and transformers' own."""

from __future__ import annotations

import numpy as np
import torch
from transformers import AutoConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLRotaryEmbedding

from omnigen2_rt.runtime.mllm.mrope import mrope_tables, text_positions
from tests.runtime.goldens import GOLDENS, arrays


def test_mrope_tables_of_recorded_positions_equal_transformers() -> None:
    config = AutoConfig.from_pretrained(GOLDENS / "A" / "checkpoint" / "mllm").text_config
    positions = arrays("A", "mllm")["chat2_pos"]
    cos, sin = Qwen2_5_VLRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions))
    ours = mrope_tables(positions[:, 0], 16, 1e6, (2, 3, 3))
    np.testing.assert_allclose(ours.cos, cos[0].numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ours.sin, sin[0].numpy(), rtol=0, atol=1e-6)


def test_text_positions_equal_the_recorded_ones_of_a_text_prompt() -> None:
    recorded = arrays("A", "mllm")["chat0_pos"][:, 0]
    np.testing.assert_array_equal(text_positions(0, recorded.shape[1]), recorded)
    np.testing.assert_array_equal(text_positions(5, 2), [[5, 6]] * 3)
