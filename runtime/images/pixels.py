"""RGB images to the VAE's pixels and back, and the sizes at which pictures are read and drawn.

Pixels are (B, 3, H, W) float32 in [-1, 1]. The multiple that sizes are cut to comes from the bundle; nothing here knows
the model. Sizes and resampling follow omnigen2/pipelines/image_processor.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import RequestError

_BAND_PIXELS = 2**20


class Size(NamedTuple):
    """A picture's size, in the order of PIL."""

    width_px: int
    height_px: int


def reference_size(width_px: int, height_px: int, multiple: int, max_pixels: int, max_side_px: int) -> Size:
    """The size at which an input image is read: within both limits, cut to the multiple, never enlarged.

    Raises RequestError if a side would be shorter than the multiple.
    """
    ratio = min((max_pixels / (width_px * height_px)) ** 0.5, max_side_px / max(width_px, height_px), 1.0)
    return _cut(width_px, height_px, ratio, multiple, "input image")


def output_size(width_px: int, height_px: int, multiple: int, max_pixels: int) -> Size:
    """The size at which a picture is drawn, before it is resized to the request.

    Raises RequestError if a side would be shorter than the multiple.
    """
    ratio = min((max_pixels / (width_px * height_px)) ** 0.5, 1.0)
    return _cut(width_px, height_px, ratio, multiple, "picture")


def _cut(width_px: int, height_px: int, ratio: float, multiple: int, what: str) -> Size:
    size = Size(*(int(side * ratio) // multiple * multiple for side in (width_px, height_px)))
    if min(size) < multiple:
        scaled = "" if ratio == 1 else f" scaled to {int(width_px * ratio)}×{int(height_px * ratio)} px by the limits"
        raise RequestError(
            f"{what} of {width_px}×{height_px} px{scaled} is too narrow; each side needs at least {multiple} px"
        )
    return size


def resize_lanczos(image: Image.Image, size: Size) -> Image.Image:
    """The image at `size`; one of that size already is copied."""
    return image.resize(size, Image.Resampling.LANCZOS)


def to_pixels(image: Image.Image, size: Size) -> NDArray[np.float32]:
    """An RGB image, resized (Lanczos), as pixels (1, 3, H, W) float32 in [-1, 1]."""
    resized = resize_lanczos(image, size)
    pixels = np.asarray(resized, np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def to_images(pixels: NDArray[np.floating[Any]]) -> list[Image.Image]:
    """Pixels (B, 3, H, W) in [-1, 1] as RGB images; what lies outside is clipped."""
    unit = np.clip(pixels.astype(np.float32) * np.float32(0.5) + np.float32(0.5), 0, 1)
    return [Image.fromarray(image) for image in np.round(unit * 255).astype(np.uint8).transpose(0, 2, 3, 1)]


def to_resized_images(pixels: NDArray[np.floating[Any]], size: Size) -> list[Image.Image]:
    """Pixels (B, 3, h, w) in [-1, 1] as RGB images of `size`, resized by `resize_bilinear`.

    Works on a band of rows at a time: the size may be far larger than the one that was drawn.
    """
    rows = max(1, _BAND_PIXELS // size.width_px)
    images = []
    for picture in pixels[:, None]:
        image = Image.new("RGB", size)
        for top in range(0, size.height_px, rows):
            band = range(top, min(top + rows, size.height_px))
            resized = _resize_axis(_resize_axis(picture, 2, size.height_px, band), 3, size.width_px)
            image.paste(to_images(resized)[0], (0, top))
        images.append(image)
    return images


def resize_bilinear(pixels: NDArray[np.float32], height_px: int, width_px: int) -> NDArray[np.float32]:
    """Bilinear resizing without antialiasing, pixel centres at half: PyTorch's interpolate(mode="bilinear").

    pixels: (B, 3, h, w) float32. Returns (B, 3, height_px, width_px) float32.
    """
    return _resize_axis(_resize_axis(pixels, 2, height_px), 3, width_px)


def _resize_axis(
    pixels: NDArray[np.float32], axis: int, length: int, part: range | None = None
) -> NDArray[np.float32]:
    """The axis resized to `length`, all of it or the part of these indices."""
    old, part = pixels.shape[axis], part or range(length)
    if old == length:
        return pixels.take(part, axis)
    # PyTorch computes the coordinates in float32 with one rounding; in large pictures it shows in the fractions.
    scale = np.float64(np.float32(old / length))
    centres = np.maximum(((np.array(part) + 0.5) * scale - 0.5).astype(np.float32), 0)
    low = np.minimum(centres.astype(np.int64), old - 1)
    shape = [-1 if a == axis else 1 for a in range(pixels.ndim)]
    fraction = (centres - low.astype(np.float32)).reshape(shape)
    below, above = (pixels.take(i, axis) for i in (low, np.minimum(low + 1, old - 1)))
    resized: NDArray[np.float32] = below * (1 - fraction) + above * fraction
    return resized
