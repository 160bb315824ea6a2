"""PNG files that carry the parameters they were drawn with.

Two text chunks: "omnigen2" holds them as JSON, for `read_parameters`; "parameters" the same in words, for people and
for other tools that show that chunk. Knows nothing of what the parameters mean.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin, UnidentifiedImageError

from ..errors import RequestError
from ..files.json_text import parse_object
from ..files.writing import atomic_file

JSON_CHUNK = "omnigen2"
TEXT_CHUNK = "parameters"


def save_png(image: Image.Image, path: str | os.PathLike[str], parameters: Mapping[str, Any]) -> None:
    """Writes a PNG with its parameters; the file appears whole or not at all.

    parameters: what JSON can hold. Raises RequestError if the file cannot be written.
    """
    try:
        text = json.dumps(dict(parameters), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"parameters cannot be written as JSON: {error}") from error
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text(JSON_CHUNK, text)
    chunks.add_itxt(TEXT_CHUNK, "\n".join(f"{name}: {value}" for name, value in parameters.items()))
    target = Path(path)
    try:
        with atomic_file(target) as file:
            image.save(file, format="PNG", pnginfo=chunks)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot write {str(target)!r}: {reason}") from error


def read_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The parameters that `save_png` stored.

    Raises RequestError if the file cannot be read, is no PNG, or carries no parameters.
    """
    name = repr(os.fspath(path))
    try:
        with Image.open(path, formats=("PNG",)) as image:
            assert isinstance(image, PngImagePlugin.PngImageFile)
            text = image.text.get(JSON_CHUNK)
    except FileNotFoundError as error:
        raise RequestError(f"{name} does not exist") from error
    except UnidentifiedImageError as error:
        raise RequestError(f"{name} is not a PNG file") from error
    except Exception as error:  # a decoder facing damaged bytes may raise anything
        raise RequestError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if text is None:
        raise RequestError(f"{name} carries no parameters of a drawing; was it made or re-saved by another program?")
    return _parse(text, name)


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as error:
        raise RequestError(f"{name} carries damaged parameters: the text {error}") from error
