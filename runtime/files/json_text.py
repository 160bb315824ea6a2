"""The one reader of JSON: of a bundle, a checkpoint, a weight file's header, a record of a cache.

Such a file may come from anywhere. Refused here:
- what Python's reader accepts beyond JSON: NaN, Infinity, a key given twice;
- what it turns into exceptions of other kinds: deep nesting, integers of thousands of digits;
- what would fail later elsewhere: half a character, a number beyond float64.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .reading import read_bytes

MAX_JSON_BYTES = 64 * 2**20
"""The largest JSON file that is read: a tokenizer of 150,000 tokens takes 11 MB."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
"""The beginning of the file that git leaves in place of a large one where git-lfs isn't installed."""


def parse_json(content: str | bytes) -> Any:
    """The value that the text holds; bytes are UTF-8, with or without a byte order mark.

    Raises ValueError, whose message goes after the file's name, for anything that isn't JSON, a key given
    twice, an integer beyond 64 bits, a float beyond float64, deep nesting, or text that isn't valid Unicode.
    """
    beginning = content[: len(LFS_POINTER)]
    refuse_pointer(beginning if isinstance(beginning, bytes) else beginning.encode(errors="replace"))
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        value = json.loads(
            text, parse_int=_integer, parse_float=_float, parse_constant=_refuse_constant, object_pairs_hook=_without_duplicates
        )
        if "\\ud" in text or "\\uD" in text:  # an escape of half a character is valid JSON
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except (UnicodeDecodeError, UnicodeEncodeError) as error:
        raise ValueError(f"is not valid Unicode text: {error.reason}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    return value


def json_hash(facts: object, default: Callable[[Any], object] | None = None) -> str:
    """SHA-256 of a JSON value, hexadecimal. Objects of equal entries have the same, in whatever order these are.

    default: the JSON value for another object; without it, such an object raises TypeError.
    """
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=default).encode()).hexdigest()


def refuse_pointer(content: bytes) -> None:
    """Raises ValueError, to go after the file's name, for a git-lfs pointer; `len(LFS_POINTER)` bytes are enough."""
    if content.startswith(LFS_POINTER):
        raise ValueError("is a git-lfs pointer: fetch the file itself (git lfs pull)")


def parse_object(content: str | bytes) -> dict[str, Any]:
    """The object that the text holds. Raises ValueError as `parse_json` does, and for another value than an object."""
    value = parse_json(content)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def read_object(path: Path) -> dict[str, Any]:
    """The object that a file holds. Raises OSError where the file can't be read, ValueError as `parse_object` does."""
    return parse_object(read_bytes(path, MAX_JSON_BYTES))


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (value := int(digits)) < 2**64:
        raise ValueError(f"holds the integer {digits[:20]}{'…' * (len(digits) > 20)} beyond 64 bits")
    return value


def _float(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise ValueError(f"holds the number {digits[:20]}{'…' * (len(digits) > 20)} beyond float64")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is not JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(unique := dict(pairs)) < len(pairs):
        twice = sorted(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"names {twice[0]!r} twice")
    return unique
