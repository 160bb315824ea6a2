"""Cells of rows as the fields of a `Request`: the columns, and the reading of text as numbers and lists.

`Request` says which values are allowed. Opens no pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..runtime.checks import check_number
from ..runtime.errors import RequestError, shown
from ..runtime.files.arrays import read_array
from ..runtime.request import Request
from ..runtime.step_caches import CACHES, TeaCache

SEPARATOR = ";"
"""Between the items of a list in a text cell, unless it is a JSON list."""
_WHOLE = re.compile(r"[+-]?[0-9]{1,30}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NONE = "none"
"""The name of no cache, for a row among others that have one by default."""


def fields_of_text(values: Mapping[str, str]) -> dict[str, Any]:
    """Cells that are text, such as those of CSV, as values of their columns' types. Raises RequestError."""
    return {name: _READERS[name](name, text) for name, text in values.items()}


def request_of(values: Mapping[str, Any], folder: Path) -> tuple[Request, str | None]:
    """The request of a row's cells, and the name of its file of noise, if there is one.

    values: by column, without empty cells. folder: the start of relative paths. Raises RequestError.
    """
    if "prompt" not in values:
        raise RequestError("prompt is missing or empty")
    fields = {name: _integral(value) if name in _WHOLE_COLUMNS else value for name, value in values.items() if name != "id"}
    threshold, cache = fields.pop("tea_threshold", None), fields.pop("cache", None)
    noise = fields.pop("latents", None)
    if "images" in fields:
        fields["images"] = _paths(fields["images"], folder)
    latents = None if noise is None else _latents(noise, folder)
    return Request(**fields, latents=latents, cache=_cache(cache, threshold)), noise


def check_columns(names: Iterable[str], place: str = "") -> None:
    """Raises RequestError for an unknown column. place: the column's, for the message."""
    unknown = [name for name in names if name not in COLUMNS]
    if unknown:
        where = f"{place}: " if place else ""
        raise RequestError(f"{where}there is no column {shown(unknown[0])}; there are {', '.join(COLUMNS)}")


def _integral(value: Any) -> Any:
    """A whole number that a table keeps as a float, as an int. Anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _paths(value: Any, folder: Path) -> tuple[Path, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list):
        raise RequestError(f"images={shown(value)} is not a list of pictures' names")
    for number, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise RequestError(f"images[{number}]={shown(name)} is not the name of a picture")
    return tuple(folder / name for name in names)


def _latents(name: Any, folder: Path) -> Any:
    if not isinstance(name, str):
        raise RequestError(f"latents={shown(name)} is not the name of a .npy file")
    try:
        return read_array(folder / name)
    except RequestError as error:
        raise RequestError(f"latents {name!r} {error}") from error


def _cache(name: Any, threshold: Any) -> Any:
    if threshold is not None and name != "teacache":
        raise RequestError("tea_threshold belongs to cache=teacache")
    if name is None or name == _NONE:
        return None
    if not isinstance(name, str) or name not in CACHES:
        raise RequestError(f"cache={shown(name)} is unknown; choose {', '.join(CACHES)} or {_NONE}")
    return CACHES[name]() if threshold is None else TeaCache(threshold=check_number("tea_threshold", threshold))


def _text(name: str, text: str) -> str:
    return text


def _word(name: str, text: str) -> str:
    return text.strip()


def _whole(name: str, text: str) -> int | float:
    return int(text) if _WHOLE.fullmatch(text.strip()) else _number(name, text)


def _number(name: str, text: str) -> float:
    if not _NUMBER.fullmatch(text.strip()):
        raise RequestError(f"{name}={shown(text)} is not a number")
    return float(text)


def _truth(name: str, text: str) -> bool:
    word = text.strip().lower()
    if word not in ("true", "false"):
        raise RequestError(f"{name}={shown(text)} is not true or false")
    return word == "true"


def _words(name: str, text: str) -> list[Any]:
    if not text.lstrip().startswith("["):
        return [word.strip() for word in text.split(SEPARATOR)]
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = None
    if not isinstance(items, list):
        raise RequestError(f'{name}={shown(text)} is not a list: write a{SEPARATOR}b or ["a", "b"]')
    return items


def _numbers(name: str, text: str) -> list[Any]:
    return [_number(name, item) if isinstance(item, str) else item for item in _words(name, text)]


_READERS: dict[str, Callable[[str, str], Any]] = {
    "id": _word,
    "prompt": _text,
    "negative_prompt": _text,
    "images": _words,
    "height_px": _whole,
    "width_px": _whole,
    "steps": _whole,
    "text_guidance": _number,
    "image_guidance": _number,
    "cfg_range": _numbers,
    "scheduler": _word,
    "timesteps": _numbers,
    "images_per_prompt": _whole,
    "seed": _whole,
    "latents": _word,
    "max_prompt_tokens": _whole,
    "max_pixels": _whole,
    "max_input_side_px": _whole,
    "align_size": _truth,
    "cache": _word,
    "tea_threshold": _number,
}
"""By column: the value that a text stands for, or RequestError."""
COLUMNS = tuple(_READERS)
"""Every field of `Request`, the row's id, and TeaCache's threshold."""
_WHOLE_COLUMNS = {name for name, reader in _READERS.items() if reader is _whole}
