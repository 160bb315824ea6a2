"""ComfyUI's IMAGE and our pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from omnigen2_rt import RequestError
from tests.comfyui.running import Comfy

EVERY_VALUE = np.arange(256, dtype=np.uint8).reshape(16, 16)[:, :, None].repeat(3, 2)


def test_image_of_every_value_comes_back_and_is_saved_unchanged(comfy: Comfy) -> None:
    """ComfyUI's SaveImage cuts fractions off, so 254.99999 would become 254."""
    image = comfy.module("images").image_of([Image.fromarray(EVERY_VALUE)])
    assert image.dtype == torch.float32 and image.shape == (1, 16, 16, 3)
    assert np.array_equal(comfy.module("images").arrays_of("image_1", image)[0], EVERY_VALUE)
    assert np.array_equal((255.0 * image.numpy()).astype(np.uint8)[0], EVERY_VALUE)


def test_image_batch_becomes_a_picture_each_in_order(comfy: Comfy) -> None:
    batch = torch.stack([torch.full((4, 6, 3), level) for level in (0.0, 0.5, 1.0)])
    arrays = comfy.module("images").arrays_of("image_1", batch)
    assert [array.shape for array in arrays] == [(4, 6, 3)] * 3
    assert [int(array[0, 0, 0]) for array in arrays] == [0, 128, 255]


def test_image_values_outside_the_range_are_clipped(comfy: Comfy) -> None:
    image = torch.tensor([-1.0, 0.25, 3.0, float("inf")]).reshape(1, 1, 4, 1)
    (array,) = comfy.module("images").arrays_of("image_1", image)
    assert array.ravel().tolist() == [0, 64, 255, 255]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_image_of_another_float_type_is_read(comfy: Comfy, kind: torch.dtype) -> None:
    (array,) = comfy.module("images").arrays_of("image_1", torch.ones((1, 2, 2, 4), dtype=kind))
    assert array.shape == (2, 2, 4) and array.min() == 255


@pytest.mark.parametrize("shape", [(8,), (8, 8), (1, 8, 8, 2), (1, 1, 8, 8, 3)])
def test_image_of_another_shape_is_refused(comfy: Comfy, shape: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match=r"^image_2 has shape \(.*\); an image is \(B, H, W, C\) with 1, 3 or 4 channels$"):
        comfy.module("images").arrays_of("image_2", torch.zeros(shape))


def test_image_with_nan_is_refused(comfy: Comfy) -> None:
    """Cast to bytes it would be black, or anything."""
    image = torch.zeros((1, 8, 8, 3))
    image[0, 3, 3, 1] = float("nan")
    with pytest.raises(RequestError, match=r"^image_3 holds NaN: look at the node that made it$"):
        comfy.module("images").arrays_of("image_3", image)
