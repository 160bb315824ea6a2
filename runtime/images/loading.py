"""Files, PIL images and arrays as RGB images. Knows no model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..checks import reporting
from ..errors import RequestError
from ..files.reading import open_regular
from .opening import check_pixels, open_picture
from .tiff_tags import check_depth, decode, is_white_zero

ImageSource: TypeAlias = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]
"""A path, a PIL image, or a uint8 array of (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."""

MAX_IMAGES = 1_000
"""The most images of one request; a model takes far fewer."""

_WIDE_GREY = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_BAND_PIXELS = 2**22
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
    with reporting(name):
        if isinstance(sources, (str, os.PathLike, Image.Image, np.ndarray)):
            sources = (sources,)
        if not isinstance(sources, Sequence):
            raise RequestError(f"{name} must be a sequence of images, not {type(sources).__name__}")
        listed = tuple(islice(sources, MAX_IMAGES + 1))
        if len(listed) > MAX_IMAGES:
            raise RequestError(f"{name} holds more than {MAX_IMAGES} images, the most of a request")
        for i, source in enumerate(listed):
            check_source(source, f"{name}[{i}]")
        return listed


def load_image(source: ImageSource) -> Image.Image:
    """Any picture as RGB, 8 bits a channel, upright.

    The EXIF rotation is applied, and of an animation the first frame is taken, as the original does (inference.py). It drops
    the alpha channel, which shows whatever colour lies hidden, and cuts 16-bit grey off at 255; here transparency is laid
    over white and 16 bits are scaled to 8. A JPEG beyond `opening.MAX_PIXELS` is read at a half or a quarter of its sides.
    Raises RequestError, naming the file, if it is missing, damaged, too large, or not a picture.
    """
    with reporting("image"):
        check_source(source, "image")
    if isinstance(source, Image.Image):
        with reporting("image"):
            path = getattr(source, "filename", "")
            name = f"image file {path!r}" if path else "image"
        with _reporting(name):
            decode(source)
            return _upright(_to_rgb(source), _orientation(source))
    if isinstance(source, np.ndarray):
        with _reporting("image array"):
            return _to_rgb(_from_array(source))
    with _reporting("image"):
        path = str.__str__(os.fsdecode(source))  # a subclass may say otherwise
    with _reporting(f"image file {path!r}"):
        return _upright(*_decoded(path))


def load_images(name: str, sources: object) -> list[Image.Image]:
    """The sources of `image_sources`, each loaded by `load_image`. Raises as they do."""
    return [load_image(source) for source in image_sources(name, sources)]


@contextmanager
def _reporting(name: str) -> Iterator[None]:
    """Turns what a reader raises into a RequestError that names the image, and keeps Pillow's warnings from the terminal."""
    try:
        with warnings.catch_warnings():  # not safe among threads: all that may be left behind is this narrow filter
            warnings.filterwarnings("ignore", module=r"PIL\.")
            yield
    except RequestError as error:
        raise RequestError(f"{name} {error}") from error
    except FileNotFoundError as error:
        raise RequestError(f"{name} does not exist") from error
    except Image.DecompressionBombError as error:  # a few readers of Pillow's have its own limit inside
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        reason = f"holds more than {most} pixels, the most that Pillow reads of this format: scale it down first"
        raise RequestError(f"{name} {reason}") from error
    except Exception as error:  # a decoder facing damaged bytes may raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RequestError(f"{name} cannot be read: {reason}") from error


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if 0 in array.shape:
        raise RequestError(f"of shape {array.shape} holds no pixels")
    check_pixels(array.shape[1], array.shape[0])
    return Image.fromarray(array[:, :, 0] if array.shape[2:] == (1,) else array)


def _decoded(path: str) -> tuple[Image.Image, int]:
    """A file's picture in RGB and its orientation. What it was decoded to is freed here: large pictures fit twice, not thrice."""
    with open_regular(path) as file:
        picture = open_picture(file)
        picture.load()
        return _to_rgb(picture), _orientation(picture)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, 1 being upright. Nothing else of the tags is read: they may be anything."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged tags may raise anything; a picture is shown without them
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise RequestError(f"holds no pixels (it is {image.width}×{image.height})")
    check_depth(image)
    if image.mode in _WIDE_GREY:
        return _in_bands(image, _narrow_inverted_grey if is_white_zero(image) else _narrow_grey)
    if image.has_transparency_data:
        return _in_bands(image, _over_white)
    return image.convert("RGB")


def _in_bands(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """The picture, converted a band of rows at a time: a large one takes half a gigabyte for each step of it."""
    rgb, rows = Image.new("RGB", image.size), max(1, _BAND_PIXELS // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        rgb.paste(to_rgb(image.crop(box)), box)
    return rgb


def _narrow_grey(band: Image.Image) -> Image.Image:
    wide = np.asarray(band).astype(np.int64)
    if wide.min() < 0 or wide.max() > 65535:
        raise RequestError(f"has integer pixels from {wide.min()} to {wide.max()}; at most 16 bits, 0 to 65535, are read")
    narrow = ((wide + 128) // 257).astype(np.uint8)
    transparent = band.info.get("transparency")
    if isinstance(transparent, int):
        narrow[wide == transparent] = 255  # laid over white
    return Image.fromarray(narrow).convert("RGB")


def _narrow_inverted_grey(band: Image.Image) -> Image.Image:
    return ImageOps.invert(_narrow_grey(band))


def _over_white(band: Image.Image) -> Image.Image:
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
