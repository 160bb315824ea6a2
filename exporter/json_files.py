"""JSON objects of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError
from ..runtime.files.json_text import parse_object, read_object


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
