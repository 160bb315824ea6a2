"""JSON objects of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError


def read_json(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises ExportError where the file is missing or holds something else."""
    try:
        return parse_json(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        raise ExportError(f"{path} is missing: the checkpoint is incomplete") from None
    except UnicodeDecodeError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error


def read_optional_json(path: Path) -> dict[str, Any]:
    """The object that a file holds, or an empty one where there is no file. Raises ExportError for anything else."""
    return read_json(path) if path.is_file() else {}


def parse_json(text: str, path: Path) -> dict[str, Any]:
    """The object in `text`, which was read from `path`. Raises ExportError where it is something else."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path} is not a JSON object")
    return data
