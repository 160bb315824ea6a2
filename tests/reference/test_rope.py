"""Positions, tables and rotation against the original's recorded ones (tests/data/goldens/*/golden/rope.npz)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from omnigen2_rt.reference.rope import omni_rope, position_ids, rope_tables
from tests.runtime.goldens import CONFIGS, arguments, arrays

CASES = [(config, case) for config in CONFIGS for case in arguments(config, "rope")]
AXES = {"A": (8, 8, 8), "B": (8, 8, 4)}


def grids(sizes: list[list[int]] | None) -> list[tuple[int, int]]:
    return [(height // 2, width // 2) for height, width in sizes or []]


@pytest.mark.parametrize(("config", "case"), CASES)
def test_positions_and_tables_match_the_original(config: str, case: str) -> None:
    data, layout = arrays(config, "rope"), arguments(config, "rope")[case]
    for sample, text_tokens in enumerate(layout["text_lens"]):
        references = grids(layout["ref_latent_sizes"][sample])
        positions = position_ids(text_tokens, references, grids([layout["img_latent_sizes"][sample]])[0])
        count = len(positions)
        assert torch.equal(positions, torch.from_numpy(data[f"{case}_pos"][sample, :count]).long())
        cos, sin = rope_tables(positions, AXES[config], 10000.0)
        assert cos.dtype == sin.dtype == torch.float32
        torch.testing.assert_close(cos, torch.from_numpy(data[f"{case}_joint_cos"][sample, :count]), rtol=0, atol=1e-6)
        torch.testing.assert_close(sin, torch.from_numpy(data[f"{case}_joint_sin"][sample, :count]), rtol=0, atol=1e-6)


def test_positions_of_a_padded_text_do_not_move_the_images() -> None:
    plain, padded = position_ids(3, [(2, 4)], (3, 3)), position_ids(3, [(2, 4)], (3, 3), padded_text_tokens=5)
    assert torch.equal(torch.cat((padded[:3], padded[5:])), plain)
    assert not padded[3:5].any()


def test_positions_past_the_tables_of_the_original_have_angles() -> None:
    cos, _ = rope_tables(torch.tensor([[5000, 0, 0]]), (4, 4, 4), 10000.0)
    exact = torch.tensor([5000.0, 50.0], dtype=torch.float64).cos().float()
    torch.testing.assert_close(cos[0], torch.cat((exact, torch.ones(4))))


def test_omni_rope_is_norm_then_complex_product_then_transpose() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2, 5, 3, 12), torch.randn(12)
    angles = torch.randn(5, 6)
    rotated = omni_rope(x, weight, angles.cos(), angles.sin(), 1e-5)
    normed = x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
    pairs = torch.view_as_complex(normed.reshape(2, 5, 3, 6, 2))
    expected = torch.view_as_real(pairs * torch.polar(torch.ones(5, 1, 6), angles.unsqueeze(1))).flatten(3)
    torch.testing.assert_close(rotated, expected.transpose(1, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_omni_rope_with_tables_of_each_sample_keeps_the_dtype(dtype: Any) -> None:
    torch.manual_seed(0)
    x, weight, angles = torch.randn(2, 5, 3, 12).to(dtype), torch.ones(12).to(dtype), torch.randn(2, 5, 6)
    rotated = omni_rope(x, weight, angles.cos(), angles.sin(), 1e-5)
    alone = [omni_rope(x[i : i + 1], weight, angles[i].cos(), angles[i].sin(), 1e-5) for i in range(2)]
    assert rotated.dtype == dtype
    assert torch.equal(rotated, torch.cat(alone))
