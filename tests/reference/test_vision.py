"""The vision encoder against the original's recorded features, and against transformers on random weights."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from omnigen2_rt.reference.vision import VisionConfig, VisionEncoder
from omnigen2_rt.reference.weights import load_mllm
from omnigen2_rt.runtime.mllm.vision_tables import vision_tables
from tests.runtime.goldens import CONFIGS, GOLDENS, arguments, arrays

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


@cache
def encoder(config: str) -> VisionEncoder:
    return load_mllm(GOLDENS / config / "checkpoint").visual


def encode(model: VisionEncoder, patches: Tensor, grid: Any) -> Tensor:
    config = model.config
    tables = vision_tables(
        tuple(int(side) for side in grid),  # type: ignore[arg-type]
        merge=config.spatial_merge_size,
        window_px=config.window_size,
        patch_px=config.patch_size,
        head_width=config.head_width,
    )
    return model(patches, *(torch.from_numpy(table) for table in tables))


def flattened_patches(path: Any, grid: Any) -> Tensor:
    """The recorded image's patches as by Qwen's processor: resized (bicubic) to the grid, normalized, repeated in time."""
    rows, columns = int(grid[1]), int(grid[2])
    image = Image.open(path).convert("RGB").resize((14 * columns, 14 * rows), Image.Resampling.BICUBIC)
    pixels = (np.asarray(image, np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    cut = pixels.reshape(rows // 2, 2, 14, columns // 2, 2, 14, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    patches = np.repeat(cut.reshape(rows * columns, 3, 1, 14, 14), 2, axis=2)
    return torch.from_numpy(patches.reshape(rows * columns, -1))


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("case", ["chat1", "chat2"])
def test_encoder_matches_the_original(config: str, case: str) -> None:
    data, images = arrays(config, "mllm"), arguments(config, "mllm")[case]["images"]
    grids = data[f"{case}_grid"]
    patches = [
        flattened_patches(GOLDENS / config / "golden" / path, grid) for path, grid in zip(images, grids, strict=True)
    ]
    head = torch.from_numpy(data[f"{case}_pixel_values_head"])
    torch.testing.assert_close(patches[0][: len(head)], head, rtol=0, atol=1e-5)
    features = [encode(encoder(config), part, grid) for part, grid in zip(patches, grids, strict=True)]
    torch.testing.assert_close(torch.cat(features), torch.from_numpy(data[f"{case}_visual"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("grid", [(1, 4, 4), (1, 8, 8), (1, 10, 14), (1, 2, 18), (1, 18, 2)])
@pytest.mark.parametrize("window_px", [56, 112])
def test_encoder_equals_that_of_transformers_for_any_grid(grid: tuple[int, int, int], window_px: int) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = dict(
        depth=3, hidden_size=48, intermediate_size=40, num_heads=4, out_hidden_size=32, window_size=window_px,
        fullatt_block_indexes=[1],
    )  # fmt: skip
    oracle = Qwen2_5_VisionTransformerPretrainedModel(Qwen2_5_VLVisionConfig(**sizes)).eval()
    for weight in oracle.parameters():
        weight.normal_(0.0, 0.15)
    model = VisionEncoder(VisionConfig(**sizes)).eval()
    model.load_state_dict(oracle.state_dict())
    patches = torch.randn(grid[1] * grid[2], 1176)
    expected = oracle(patches, grid_thw=torch.tensor([grid])).pooler_output
    torch.testing.assert_close(encode(model, patches, grid), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", CONFIGS)
def test_windows_hold_the_same_patches_as_the_original(config: str) -> None:
    """The original's windows are runs of `window_index` (in merged patches), split at `cu_window` (in patches)."""
    data, model = arrays(config, "mllm"), encoder(config)
    grid = tuple(int(side) for side in data["chat1_grid"][0])
    tables = vision_tables(
        grid,  # type: ignore[arg-type]
        merge=2,
        window_px=model.config.window_size,
        patch_px=14,
        head_width=model.config.head_width,
    )
    ends = data["chat1_cu_window"][1:-1] // 4
    expected = {frozenset(run.tolist()) for run in np.split(data["chat1_window_index"], ends) if run.size}
    pairs = zip(tables.window_members, tables.window_present, strict=True)
    actual = {frozenset((members[present] // 4).tolist()) for members, present in pairs}
    assert actual == expected
    assert np.array_equal(tables.window_members.flatten()[tables.window_slots], np.arange(grid[1] * grid[2]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": None}, r"vision_config lacks \['depth'\]"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'; only 'silu'"),
        ({"num_heads": 7}, "head width divisible by 4"),
        ({"window_size": 14}, "window_size=14 is smaller than a merged patch"),
    ],
)
def test_config_that_makes_no_network_is_refused(changes: dict[str, Any], message: str) -> None:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 8} | changes
    with pytest.raises(ValueError, match=message):
        VisionConfig.from_json({"vision_config": vision})


def test_config_takes_channels_under_either_name() -> None:
    sizes = {"depth": 2, "hidden_size": 32, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 8}
    assert VisionConfig.from_json({"vision_config": {**sizes, "in_chans": 1}}).in_channels == 1
    assert VisionConfig.from_json({"vision_config": {**sizes, "in_channels": 4, "in_chans": 3}}).in_channels == 4
