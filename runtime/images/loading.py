"""Files, PIL images and arrays as RGB images. Knows no model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import RequestError

ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A path, a PIL image, or a uint8 array of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""

_WIDE_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")


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


def image_sources(name: str, sources: object) -> tuple[ImageSource, ...]:
    """The sources as a tuple; a single one need not be wrapped. Raises RequestError for anything else. Opens no file."""
    if isinstance(sources, (str, os.PathLike, Image.Image, np.ndarray)):
        sources = (sources,)
    if not isinstance(sources, Sequence):
        raise RequestError(f"{name} must be a sequence of images, not {type(sources).__name__}")
    for i, source in enumerate(sources):
        check_source(source, f"{name}[{i}]")
    return tuple(sources)


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


def load_images(name: str, sources: object) -> list[Image.Image]:
    """What `image_sources` takes, each loaded by `load_image`."""
    return [load_image(source) for source in image_sources(name, sources)]


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
