"""Position ids and rotary tables against the original's."""

from __future__ import annotations

import numpy as np
import pytest

from omnigen2_rt.runtime.rope import position_ids, request_rotary, rope_tables
from tests.runtime.goldens import CONFIGS, arguments, arrays

AXES = {"A": (8, 8, 8), "B": (8, 8, 4)}


def grid(latent_size: list[int]) -> tuple[int, int]:
    return latent_size[0] // 2, latent_size[1] // 2


def samples(config: str) -> list[tuple[str, int, int, list[tuple[int, int]], tuple[int, int]]]:
    """Case, index in its batch, text length, reference grids, image grid."""
    return [
        (case, i, length, [grid(size) for size in references or []], grid(image))
        for case, args in arguments(config, "rope").items()
        for i, (length, references, image) in enumerate(
            zip(args["text_lens"], args["ref_latent_sizes"], args["img_latent_sizes"], strict=True)
        )
    ]


@pytest.mark.parametrize("config", CONFIGS)
def test_position_ids_of_recorded_layouts_equal_the_original(config: str) -> None:
    golden = arrays(config, "rope")
    for case, i, length, references, image in samples(config):
        ids = position_ids(length, references, image)
        np.testing.assert_array_equal(ids, golden[f"{case}_pos"][i, : len(ids)])
        assert len(ids) == golden[f"{case}_seq_lengths"][i]


@pytest.mark.parametrize("config", CONFIGS)
def test_rope_tables_of_recorded_layouts_equal_the_original(config: str) -> None:
    golden = arrays(config, "rope")
    for case, i, length, references, image in samples(config):
        cos, sin = rope_tables(position_ids(length, references, image), AXES[config], 10000)
        assert cos.dtype == sin.dtype == np.float32
        np.testing.assert_allclose(cos, golden[f"{case}_joint_cos"][i, : len(cos)], rtol=0, atol=1e-7)
        np.testing.assert_allclose(sin, golden[f"{case}_joint_sin"][i, : len(sin)], rtol=0, atol=1e-7)


def test_rope_tables_beyond_the_checkpoint_axes_lens_follow_the_formula() -> None:
    cos, sin = rope_tables(np.array([[5000, 5000, 5000]]), (40, 40, 40), 10000)
    angles = np.tile(5000 * 10000.0 ** -(np.arange(20) / 20), 3)
    np.testing.assert_allclose(cos[0], np.cos(angles), rtol=0, atol=1e-7)
    np.testing.assert_allclose(sin[0], np.sin(angles), rtol=0, atol=1e-7)


def test_request_rotary_of_an_edit_leaves_the_references_out_of_uncond() -> None:
    tables = request_rotary({"cond": 7, "ref": 5, "uncond": 5}, [(2, 3), (4, 1)], (3, 3), (8, 8, 8), 10000)
    assert [len(tables.joint[b].cos) for b in ("cond", "ref", "uncond")] == [7 + 10 + 9, 5 + 10 + 9, 5 + 9]
    assert [len(tables.text[b].cos) for b in ("cond", "ref", "uncond")] == [7, 5, 5]
    assert [len(r.cos) for r in tables.references] == [6, 4]
    np.testing.assert_array_equal(tables.joint["cond"].sin[:7], tables.text["cond"].sin)


def test_request_rotary_of_an_image_keeps_its_position_differences() -> None:
    """The refiners' tables differ from the joint ones by the shift alone: the other axes are equal."""
    tables = request_rotary({"cond": 9}, [], (3, 4), (8, 8, 8), 10000)
    np.testing.assert_array_equal(tables.image.cos[:, 4:], tables.joint["cond"].cos[9:, 4:])
    assert np.all(tables.image.cos[:, :4] == 1)
    assert np.all(tables.image.sin[:, :4] == 0)
