"""Reads what the tags of a TIFF file say beyond Pillow's pixels: depth, sign, direction of grey, size of tiles.

A RequestError of this module goes after the image's name.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, TiffImagePlugin

from ..errors import RequestError

LARGEST_TILE_PIXELS = 2**24
"""The largest tile of a small picture: one of 256×256 is common around an icon. A large picture's may be as large as itself."""

_SIGNED = 2


def check_depth(image: Image.Image) -> None:
    """Raises RequestError for pixels of whose range nothing is known: floats, signed integers, and more than 16 bits."""
    if image.mode == "F":
        raise RequestError("has floating-point pixels of unknown range; save it with 8 or 16 bits a channel")
    tags = _tags(image)
    is_signed = _SIGNED in _several(tags.get(TiffImagePlugin.SAMPLEFORMAT, ()))
    is_narrowed = 12 in _several(tags.get(TiffImagePlugin.BITSPERSAMPLE, ()))  # Pillow leaves them in the range of 12 bits
    if tags and (image.mode == "I" or is_signed or is_narrowed):
        raise RequestError("has integer pixels of unknown range; save it with 8 or 16 bits a channel, without a sign")


def is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white in a 16-bit grey TIFF, which Pillow reads as if it were black."""
    tags = _tags(image)
    return bool(tags) and tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0) == 0


def check_tiles(image: Image.Image) -> None:
    """Raises RequestError for tiles far larger than the picture: each is decoded whole. Strips end with the picture."""
    tags = _tags(image)
    width, height = (tags.get(tag, 0) for tag in (TiffImagePlugin.TILEWIDTH, TiffImagePlugin.TILELENGTH))
    whole = (image.width + 15) * (image.height + 15)  # sides of tiles are multiples of 16
    if width * height > max(whole, LARGEST_TILE_PIXELS):
        raise RequestError(f"is {image.width}×{image.height} px in tiles of {width}×{height}: save it in smaller ones")


def decode(image: Image.Image) -> None:
    """Decodes an opened image, which turns a TIFF upright.

    Pillow 13 maps the file of an uncompressed one into memory, and mixes its pixels up where it lies on its side. It maps no file
    without a name.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
        return
    name, image.filename = image.filename, ""
    try:
        image.load()
    finally:
        image.filename = name


def _tags(image: Image.Image) -> Any:
    """The tags of a picture that was opened from a TIFF file; of any other, none."""
    return getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}


def _several(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)
