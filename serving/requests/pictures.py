"""Pictures of clients: read from bytes within limits, and encoded for answers. A client's text is never opened as a file."""

from __future__ import annotations

import base64
import binascii
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from PIL import Image

from ...runtime.errors import RequestError
from ...runtime.images.loading import load_image
from ...runtime.images.opening import open_picture
from ...runtime.images.png import encode_png
from ..errors import ApiError
from ..settings import MAX_PICTURE_BYTES, MAX_PICTURE_PIXELS, MAX_REQUEST_PIXELS

_DATA_URL = re.compile(r"data:(?:image/[a-zA-Z0-9.+-]{1,40}|application/octet-stream)?(?:;[a-zA-Z0-9=.-]{1,40}){0,2};base64,")
MAX_SCANS = 200
"""The most scans of a JPEG: each goes over all its pixels, and may take 60 bytes. Cameras and programs write up to about 20."""
MEDIA_TYPES = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}


def data_url(data: bytes, media_type: str = "application/octet-stream") -> str:
    """The bytes as a data URL."""
    return f"data:{media_type};base64,{base64_text(data)}"


def is_data_url(url: str) -> bool:
    return url[:5].lower() == "data:"


def data_url_bytes(url: str, param: str) -> bytes:
    """The bytes of a picture's data URL. Raises ApiError."""
    head = _DATA_URL.match(url)
    if head is None:
        raise ApiError("image_unreadable", f"{param} is not a base64 data URL of a picture (data:image/png;base64,…)", param)
    if (len(url) - head.end()) * 3 // 4 > MAX_PICTURE_BYTES:
        raise _too_large(param)
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise ApiError("image_unreadable", f"{param} is not valid base64: {error}", param) from error


def check_sizes(places: Sequence[tuple[str, str]]) -> None:
    """Check the sizes of a request's pictures, data URLs with their parameters, without decoding them.

    Raises ApiError for one that can't be read, and for more pixels together than a request may have.
    """
    pixels = 0
    for url, param in places:
        with _opened(data_url_bytes(url, param), param) as picture:
            pixels += picture.width * picture.height
        if pixels > MAX_REQUEST_PIXELS:
            most = f"{MAX_REQUEST_PIXELS // 1_000_000} megapixels"
            raise ApiError("too_large", f"the pictures up to {param} have more than {most} together: send smaller ones", param)


def read_data_url(url: str, param: str) -> Image.Image:
    """The picture of a data URL, see `read_picture`. Raises ApiError."""
    return read_picture(data_url_bytes(url, param), param)


def read_picture(data: bytes, param: str) -> Image.Image:
    """A client's picture in RGB, upright. Its size is checked before it is decoded. Raises ApiError."""
    with _opened(data, param) as picture:
        return load_image(picture)


@contextmanager
def _opened(data: bytes, param: str) -> Iterator[Image.Image]:
    """The picture, not yet decoded. What goes wrong with it becomes an ApiError."""
    if len(data) > MAX_PICTURE_BYTES:
        raise _too_large(param)
    if data.startswith(b"\xff\xd8") and (scans := data.count(b"\xff\xda")) > MAX_SCANS:
        raise ApiError("image_unreadable", f"{param} is a JPEG of {scans} scans; at most {MAX_SCANS} are read", param)
    with tempfile.TemporaryFile() as file:  # the runtime's readers want a file
        file.write(data)
        file.seek(0)
        try:
            picture = open_picture(cast(io.BufferedReader, file))
            if picture.width * picture.height > MAX_PICTURE_PIXELS:
                size, most = f"{picture.width}×{picture.height}", f"{MAX_PICTURE_PIXELS // 1_000_000} megapixels"
                raise ApiError("too_large", f"{param} has {size} pixels; at most {most} are read", param)
            yield picture
        except RequestError as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from error
            reason = str(error).removeprefix("image ")
            raise ApiError("image_unreadable", f"{param} {reason}", param) from error
        except (ApiError, MemoryError):
            raise
        except Exception as error:  # a decoder facing damaged bytes may raise anything
            raise ApiError("image_unreadable", f"{param} cannot be read: {type(error).__name__}", param) from error


def encode_picture(image: Image.Image, output_format: str, compression: int, parameters: dict[str, Any]) -> bytes:
    """A picture's file. A PNG carries the parameters that it was drawn with."""
    if output_format == "png":
        return encode_png(image, parameters)
    file = io.BytesIO()
    image.save(file, format=output_format.upper(), quality=max(1, compression))
    return file.getvalue()


def png_bytes(image: Image.Image) -> bytes:
    """A PNG that is written quickly, for the server itself."""
    file = io.BytesIO()
    image.save(file, format="PNG", compress_level=1)
    return file.getvalue()


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _too_large(param: str) -> ApiError:
    return ApiError("too_large", f"{param} is larger than {MAX_PICTURE_BYTES // 2**20} MB", param)
