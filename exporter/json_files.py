"""JSON objects and texts of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..reference.config_values import is_number
from ..runtime.errors import ExportError
from ..runtime.files.json_text import MAX_JSON_BYTES, parse_object, read_object, refuse_pointer
from ..runtime.files.reading import read_bytes


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises ExportError where the file is missing or holds something else."""
    try:
        return read_object(path)
    except FileNotFoundError:
        raise ExportError(f"{path} is missing: the checkpoint is incomplete") from None
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ExportError(f"{path} {error}") from error


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object that a file holds, or an empty one where there is no file. Raises ExportError for anything else."""
    return read_json(path) if path.is_file() else {}


def parse_json(text: str, path: Path) -> dict[str, Any]:
    """The object in `text`, which was read from `path`. Raises ExportError where it is something else."""
    try:
        return parse_object(text)
    except ValueError as error:
        raise ExportError(f"{path} {error}") from error


def read_text(path: Path) -> str:
    """The UTF-8 text that a file holds, its lines ended by a newline alone. Raises ExportError for anything else."""
    try:
        content = read_bytes(path, MAX_JSON_BYTES)
        refuse_pointer(content)
        text = content.decode()
    except OSError as error:
        raise ExportError(f"{path} can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is not UTF-8 text: {error.reason}") from error
    except ValueError as error:
        raise ExportError(f"{path} {error}") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def number_in(path: Path, config: dict[str, Any], key: str, low: float, high: float, default: float | None = None) -> float:
    """A number of a file's object, `default` where there is none. Raises ExportError, naming file and key, for another value."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if not is_number(value) or not low <= value <= high:
        raise ExportError(f"{path} has {key}={value!r}; a number from {low:g} to {high:g} is allowed")
    return float(value)


def integer_in(path: Path, config: dict[str, Any], key: str, low: int, high: int, default: int | None = None) -> int:
    """An integer of a file's object, `default` where there is none. Raises ExportError as `number_in` does."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or not low <= value <= high:
        raise ExportError(f"{path} has {key}={value!r}; an integer from {low} to {high} is allowed")
    return value
