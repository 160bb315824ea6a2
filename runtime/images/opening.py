"""Picture files, opened with Pillow's readers of a few formats: PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF.

Pillow knows 40 more, of which one starts another program (EPS) and most are hardly tested. Its limit of pixels is a warning to
some and cannot be set for one call, so its `Image.open` is not used and the limit is ours.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from io import BufferedReader

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ..errors import RequestError
from .png_chunks import only_picture
from .tiff_tags import check_tiles

MAX_PIXELS = 16_384 * 12_288
"""The largest input image: 201 megapixels, what the largest cameras take. Decoding takes up to 12 bytes a pixel, 2.4 GB.

Pillow's readers of TIFF and WebP have a lower limit inside, 179 megapixels unless `Image.MAX_IMAGE_PIXELS` is changed."""
MAX_REDUCED_PIXELS = 2**30
"""The largest JPEG, which is read at a half or a quarter of its sides. A progressive one has to be decoded whole."""
MAX_FILE_BYTES = 2**31

_READERS = [
    ("PNG", PngImagePlugin.PngImageFile),
    ("JPEG", JpegImagePlugin.JpegImageFile),
    ("WEBP", WebPImagePlugin.WebPImageFile),
    ("GIF", GifImagePlugin.GifImageFile),
    ("BMP", BmpImagePlugin.BmpImageFile),
    ("TIFF", TiffImagePlugin.TiffImageFile),
]
with suppress(ImportError):  # not in every Pillow
    _READERS.append(("AVIF", import_module("PIL.AvifImagePlugin").AvifImageFile))


def open_picture(file: BufferedReader) -> ImageFile.ImageFile:
    """The picture, its pixels not yet decoded. Pillow raises many exceptions for a damaged one.

    Raises RequestError, whose message goes after the file's name, for another format or too large a picture.
    """
    if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
        raise RequestError(f"is larger than {MAX_FILE_BYTES} bytes, the most that is read")
    picture = _identified(file)
    _limit_pixels(picture)
    check_tiles(picture)
    _scale_transparency(picture)
    return picture


def check_pixels(width_px: int, height_px: int) -> None:
    """Raises RequestError, whose message goes after the image's name, for a picture that is too large."""
    if width_px * height_px > MAX_PIXELS:
        raise RequestError(
            f"is {width_px}×{height_px} px; at most {MAX_PIXELS} pixels are read, of a JPEG that isn't progressive "
            f"{MAX_REDUCED_PIXELS}: scale it down first"
        )


def _identified(file: BufferedReader) -> ImageFile.ImageFile:
    beginning = file.read(16)
    for name, reader in _READERS:
        _, accept = Image.OPEN[name]
        if accept is not None and accept(beginning) is True:
            file.seek(0)
            return reader(only_picture(file) if name == "PNG" else file, "")
    raise RequestError(f"is not a picture in a known format; known are {', '.join(name for name, _ in _READERS)}")


def _limit_pixels(picture: ImageFile.ImageFile) -> None:
    """Lets a JPEG that is too large be decoded at a half or a quarter of its sides. Raises RequestError as `check_pixels`."""
    width, height = picture.size
    is_reducible = picture.format == "JPEG" and "progressive" not in picture.info
    if is_reducible and MAX_PIXELS < width * height <= MAX_REDUCED_PIXELS:
        part = 2 if -(-width // 2) * -(-height // 2) <= MAX_PIXELS else 4
        picture.draft(None, (width // part, height // part))
    check_pixels(*picture.size)


def _scale_transparency(picture: ImageFile.ImageFile) -> None:
    """Brings the transparent colour of a PNG to the 8 bits to which Pillow brings its pixels: it leaves the colour as it was."""
    transparent, stored_as = picture.info.get("transparency"), picture.tile[0].args if picture.tile else None
    if stored_as in ("L;2", "L;4") and isinstance(transparent, int):
        picture.info["transparency"] = transparent * (85 if stored_as == "L;2" else 17)
    if stored_as == "RGB;16B" and isinstance(transparent, tuple):
        picture.info["transparency"] = tuple(value >> 8 for value in transparent)
