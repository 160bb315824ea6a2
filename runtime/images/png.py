"""PNG files that carry the parameters they were drawn with.

Two text chunks: "omnigen2" holds them as JSON, for `read_parameters`; "parameters" the same in words, for people and
for other tools that show that chunk. Knows nothing of what the parameters mean.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..checks import reporting
from ..errors import RequestError
from ..files.json_text import parse_object
from ..files.reading import open_regular
from ..files.writing import atomic_file
from .png_chunks import read_text

JSON_CHUNK = "omnigen2"
TEXT_CHUNK = "parameters"


def save_png(image: Image.Image, path: str | os.PathLike[str], parameters: Mapping[str, Any]) -> None:
    """Writes a PNG with its parameters; the file appears whole or not at all.

    parameters: what JSON can hold. Raises RequestError if the file cannot be written.
    """
    chunks = _text_chunks(parameters)
    with reporting("path"):
        target = Path(os.fsdecode(path))
    try:
        with atomic_file(target) as file:
            image.save(file, format="PNG", pnginfo=chunks)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot write {str(target)!r}: {reason}") from error


def encode_png(image: Image.Image, parameters: Mapping[str, Any]) -> bytes:
    """The bytes of a PNG file with its parameters, as `save_png` writes it. Raises RequestError for others."""
    file = io.BytesIO()
    image.save(file, format="PNG", pnginfo=_text_chunks(parameters))
    return file.getvalue()


def _text_chunks(parameters: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    try:
        text = json.dumps(dict(parameters), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"parameters cannot be written as JSON: {error}") from error
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(JSON_CHUNK, text)
    try:
        chunks.add_itxt(TEXT_CHUNK, "\n".join(f"{name}: {value}" for name, value in parameters.items()))
    except UnicodeEncodeError as error:
        raise RequestError(f"cannot write the parameters as text: {error.reason}") from error
    return chunks


def read_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The parameters that `save_png` stored.

    Raises RequestError if the file cannot be read, is no PNG, or carries no parameters.
    """
    with reporting("path"):
        file_name = str.__str__(os.fsdecode(path))  # a subclass may say otherwise
    name = repr(file_name)
    try:
        with open_regular(file_name) as file:
            text = read_text(file, JSON_CHUNK)
    except FileNotFoundError as error:
        raise RequestError(f"{name} does not exist") from error
    except RequestError as error:
        raise RequestError(f"{name} {error}") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if text is None:
        raise RequestError(f"{name} carries no parameters of a drawing; was it made or re-saved by another program?")
    return _parse(text, name)


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as error:
        raise RequestError(f"{name} carries damaged parameters: the text {error}") from error
