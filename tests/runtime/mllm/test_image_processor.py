"""The language model's image processor against the original's patches."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images.loading import load_image
from omnigen2_rt.runtime.images.pixels import Size
from omnigen2_rt.runtime.manifest import ImageProcessorParameters
from omnigen2_rt.runtime.mllm.image_processor import patch_multiple_size, vision_patches
from tests.runtime.goldens import CONFIGS, GOLDENS, arguments, arrays


def parameters(config: str) -> ImageProcessorParameters:
    stored = json.loads((GOLDENS / config / "checkpoint" / "processor" / "preprocessor_config.json").read_text())
    return ImageProcessorParameters(**{name: stored[name] for name in ImageProcessorParameters.__dataclass_fields__})


@pytest.mark.parametrize("case", ["proc0", "proc1", "proc2"])
@pytest.mark.parametrize("config", CONFIGS)
def test_vision_patches_of_recorded_pictures_equal_the_original(config: str, case: str) -> None:
    golden = arrays(config, "mllm")
    image = load_image(GOLDENS / config / "golden" / arguments(config, "mllm")[case]["image"])
    patches, grid = vision_patches(image, parameters(config))
    head = golden[f"{case}_pixel_values_head"]
    assert patches.dtype == np.float32
    assert patches.shape == tuple(golden[f"{case}_shape"])
    assert list(grid) == golden[f"{case}_grid"][0].tolist()
    np.testing.assert_allclose(patches[: len(head)], head, rtol=0, atol=1e-6)
    np.testing.assert_allclose(patches.sum(1, dtype=np.float64), golden[f"{case}_row_sums"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(patches.sum(0, dtype=np.float64), golden[f"{case}_col_sums"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("config", CONFIGS)
def test_vision_patches_of_a_chat_equal_the_original(config: str) -> None:
    golden = arrays(config, "mllm")
    rows = []
    for i, name in enumerate(arguments(config, "mllm")["chat2"]["images"]):
        patches, grid = vision_patches(load_image(GOLDENS / config / "golden" / name), parameters(config))
        assert list(grid) == golden["chat2_grid"][i].tolist()
        rows.append(patches)
    stacked = np.concatenate(rows)
    np.testing.assert_allclose(stacked.sum(1, dtype=np.float64), golden["chat2_pixel_row_sums"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("config", CONFIGS)
def test_patch_multiple_size_equals_transformers(config: str) -> None:
    """Also at 70 and 98 px, halfway between multiples of 28, and beyond both limits."""
    p = parameters(config)
    sides = (3, 10, 27, 56, 70, 98, 101, 500)
    for width, height in [*itertools.product(sides, sides), (9000, 4000), (4000, 9000), (20, 3999)]:
        rows, columns = smart_resize(height, width, 28, p.min_pixels, p.max_pixels)
        assert patch_multiple_size(width, height, p) == Size(columns, rows)


def test_vision_patches_of_a_strip_says_what_is_allowed() -> None:
    message = "^image of 2×402 px is too narrow; a side may be up to 200 times the other$"
    with pytest.raises(RequestError, match=message):
        vision_patches(Image.new("RGB", (2, 402)), parameters("A"))
