"""Hashes of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .reading import open_regular
from .safetensors_header import MAX_HEADER_BYTES


def file_hash(path: Path) -> str:
    """SHA-256 of a regular file, hexadecimal. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def header_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's header (its 8-byte length and the JSON after it), hexadecimal. Raises OSError."""
    with open_regular(path) as file:
        length = file.read(8)
        return hashlib.sha256(length + file.read(min(int.from_bytes(length, "little"), MAX_HEADER_BYTES))).hexdigest()
