"""The language model's image processor: a picture as the rows of patches that its vision encoder reads.

Qwen2.5-VL's (transformers/models/qwen2_vl/image_processing_qwen2_vl.py), still pictures only. All its numbers come from
the bundle, which takes them from the checkpoint's preprocessor_config.json.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import RequestError
from ..images.pixels import Size
from ..manifest import ImageProcessorParameters

_LARGEST_ASPECT = 200


Patches = tuple[NDArray[np.float32], tuple[int, int, int]]


def vision_patches(image: Image.Image, parameters: ImageProcessorParameters) -> Patches:
    """An RGB image as patches (N, channels · temporal · patch²) float32, and its grid (frames, rows, columns).

    N = rows · columns. The patches that merge into one token follow each other; tokens go row by row.
    Raises RequestError if the image is over 200 times longer than wide.
    """
    p = parameters
    size = patch_multiple_size(image.width, image.height, p)
    resized = np.asarray(image.resize(size, Image.Resampling(p.resample)), np.float64)
    # Rescaled in float64 and only then rounded, as the original does.
    scaled = (resized * p.rescale_factor).astype(np.float32)
    mean, std = np.array([p.image_mean, p.image_std], np.float32)
    pixels: NDArray[np.float32] = (scaled - mean) / std
    rows, columns = size.height_px // p.patch_size, size.width_px // p.patch_size
    tiles = pixels.reshape(
        rows // p.merge_size, p.merge_size, p.patch_size, columns // p.merge_size, p.merge_size, p.patch_size, -1
    ).transpose(0, 3, 1, 4, 6, 2, 5)  # token row, token column, row and column in the token, channel, row, column
    frames = np.repeat(tiles[:, :, :, :, :, None], p.temporal_patch_size, axis=5)
    return frames.reshape(rows * columns, -1), (1, rows, columns)


def patch_multiple_size(width_px: int, height_px: int, parameters: ImageProcessorParameters) -> Size:
    """The nearest size of whole tokens whose area lies within the limits ("smart_resize" in the original)."""
    if max(width_px, height_px) > _LARGEST_ASPECT * min(width_px, height_px):
        raise RequestError(
            f"image of {width_px}×{height_px} px is too narrow; a side may be up to {_LARGEST_ASPECT} times the other"
        )
    factor = parameters.patch_size * parameters.merge_size
    sides = (width_px, height_px)
    area = width_px * height_px
    size = Size(*(round(side / factor) * factor for side in sides))
    if size.width_px * size.height_px > parameters.max_pixels:
        shrink = math.sqrt(area / parameters.max_pixels)
        return Size(*(max(factor, math.floor(side / shrink / factor) * factor) for side in sides))
    if size.width_px * size.height_px < parameters.min_pixels:
        grow = math.sqrt(parameters.min_pixels / area)
        return Size(*(math.ceil(side * grow / factor) * factor for side in sides))
    return size
