"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial-"
"""The beginning of a temporary file's name."""
PARTIAL_NAME = re.compile(re.escape(PARTIAL) + r"[0-9a-f]{16}")
"""A temporary file's name."""


def temporary_name() -> str:
    """A new name that `PARTIAL_NAME` matches, and nobody can guess."""
    return f"{PARTIAL}{secrets.token_hex(8)}"


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A new file to write into, which replaces `path` at the end of the block; after an error `path` is as it was.

    The content reaches the disk before the name does. Raises OSError.
    """
    partial = path.with_name(temporary_name())
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_whole(path: Path, content: bytes | memoryview | str) -> None:
    """Write a file, text as UTF-8, through `atomic_file`. Raises OSError."""
    with atomic_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
