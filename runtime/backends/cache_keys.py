"""Keys of files that are compiled from a bundle: everything that decides what such a file is. Knows no engine."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ..bundle import Bundle

Key = dict[str, Any]
"""Everything that decides what a compiled file is, by name. JSON values only."""


def digest(key: Key) -> str:
    """16 hexadecimal digits that differ where any ingredient does."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def weight_identity(bundle: Bundle) -> str:
    """One hash over every weight file's name, size and content hash, as the manifest states them."""
    files = sorted((spec.file, spec.size_bytes, spec.sha256) for spec in bundle.manifest.files)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
