"""Pictures in and out: files, PIL images and arrays to RGB, RGB to the VAE's pixels, and back.

Pixels are (B, 3, H, W) float32 in [-1, 1]. The multiple that sizes are cut to comes from the bundle; nothing here knows
the model. Sizes and resampling follow omnigen2/pipelines/image_processor.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import RequestError

ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A path, a PIL image, or a uint8 array of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""

_WIDE_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")


class Size(NamedTuple):
    """A picture's size, in the order of PIL."""

    width_px: int
    height_px: int


def check_source(source: object, name: str) -> None:
    """Raises RequestError unless `source` is of a kind that `load_image` takes. Opens no file."""
    if isinstance(source, (str, os.PathLike, Image.Image)):
        return
    if not isinstance(source, np.ndarray):
        raise RequestError(f"{name} is a {type(source).__name__}; pass a path, a PIL image or a uint8 array")
    if source.dtype != np.uint8:
        raise RequestError(f"{name} is a {source.dtype} array; image arrays are uint8")
    if source.ndim not in (2, 3) or (source.ndim == 3 and source.shape[2] not in (1, 3, 4)):
        raise RequestError(f"{name} has shape {source.shape}; image arrays are (H, W), (H, W, 3) or (H, W, 4)")


def load_image(source: ImageSource) -> Image.Image:
    """Any picture as RGB, 8 bits a channel, upright.

    The EXIF rotation is applied, and of an animation the first frame is taken, as the original does (inference.py). It drops
    the alpha channel, which shows whatever colour lies hidden, and cuts 16-bit grey off at 255; here transparency is laid
    over white and 16 bits are scaled to 8. Raises RequestError, naming the file, if it is missing, damaged or not a picture.
    """
    check_source(source, "image")
    if isinstance(source, (str, os.PathLike)):
        with _reporting(f"image file {os.fspath(source)!r}"), Image.open(source) as opened:
            return _to_rgb(opened)
    image = source if isinstance(source, Image.Image) else _from_array(source)
    name = getattr(image, "filename", "")
    with _reporting(f"image file {name!r}" if name else "image"):
        return _to_rgb(image)


@contextmanager
def _reporting(name: str) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise RequestError(f"{name} {error}") from error
    except FileNotFoundError as error:
        raise RequestError(f"{name} does not exist") from error
    except UnidentifiedImageError as error:
        raise RequestError(f"{name} is not a picture in a known format") from error
    except Exception as error:  # a decoder facing damaged bytes may raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RequestError(f"{name} cannot be read: {reason}") from error


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if 0 in array.shape:
        raise RequestError(f"image array of shape {array.shape} holds no pixels")
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise RequestError(f"holds no pixels (it is {image.width}×{image.height})")
    image = ImageOps.exif_transpose(image)
    if image.mode in _WIDE_GREY:
        wide = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise RequestError("has floating-point pixels of unknown range; save it with 8 or 16 bits a channel")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


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


def to_pixels(image: Image.Image, size: Size) -> NDArray[np.float32]:
    """An RGB image, resized (Lanczos), as pixels (1, 3, H, W) float32 in [-1, 1]."""
    resized = image.resize(size, Image.Resampling.LANCZOS)
    pixels = np.asarray(resized, np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def to_images(pixels: NDArray[np.floating[Any]]) -> list[Image.Image]:
    """Pixels (B, 3, H, W) in [-1, 1] as RGB images; what lies outside is clipped."""
    unit = np.clip(pixels.astype(np.float32) * np.float32(0.5) + np.float32(0.5), 0, 1)
    return [Image.fromarray(image) for image in np.round(unit * 255).astype(np.uint8).transpose(0, 2, 3, 1)]


def resize_bilinear(pixels: NDArray[np.float32], height_px: int, width_px: int) -> NDArray[np.float32]:
    """Bilinear resizing without antialiasing, pixel centres at half: PyTorch's interpolate(mode="bilinear").

    pixels: (B, 3, h, w) float32. Returns (B, 3, height_px, width_px) float32.
    """
    return _resize_axis(_resize_axis(pixels, 2, height_px), 3, width_px)


def _resize_axis(pixels: NDArray[np.float32], axis: int, length: int) -> NDArray[np.float32]:
    old = pixels.shape[axis]
    if old == length:
        return pixels
    # PyTorch computes the coordinates in float32 with one rounding; in large pictures it shows in the fractions.
    scale = np.float64(np.float32(old / length))
    centres = np.maximum(((np.arange(length) + 0.5) * scale - 0.5).astype(np.float32), 0)
    low = np.minimum(centres.astype(np.int64), old - 1)
    shape = [-1 if a == axis else 1 for a in range(pixels.ndim)]
    fraction = (centres - low.astype(np.float32)).reshape(shape)
    below, above = (pixels.take(i, axis) for i in (low, np.minimum(low + 1, old - 1)))
    resized: NDArray[np.float32] = below * (1 - fraction) + above * fraction
    return resized
