"""Command-line text as the values that `Request` and `load` take: caches, times, sizes of memory, names of files.

Which values are allowed for a drawing, `Request` says.
"""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import RequestError
from ..runtime.step_caches import CACHES, CachePolicy, TeaCache

SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]?)(i?)(B?)\s*", re.IGNORECASE)
"""A number, a prefix, whether it counts in powers of 1024, and the unit, which may be left out after a prefix."""


def cache_policy(name: str | None, threshold: float | None) -> CachePolicy | None:
    """The cache policy of a name. Raises RequestError for an unknown one."""
    if threshold is not None and name != "teacache":
        raise RequestError("--tea-threshold belongs to --cache teacache")
    if name is None:
        return None
    if name not in CACHES:
        raise RequestError(f"--cache {name!r} is unknown; choose {' or '.join(CACHES)}")
    return CACHES[name]() if threshold is None else TeaCache(threshold=threshold)


def picture_names(out: Path, count: int) -> list[Path]:
    """The pictures' files. Raises RequestError, before anything is drawn, where they couldn't be written."""
    if out.suffix.lower() != ".png":
        raise RequestError(f"--out {str(out)!r} must end in .png")
    if not out.parent.is_dir():
        raise RequestError(f"the folder of --out, {str(out.parent)!r}, does not exist: make it first")
    names = [out] if count == 1 else [out.with_name(f"{out.stem}-{k}{out.suffix}") for k in range(count)]
    for name in names:
        if name.is_dir():
            raise RequestError(f"--out {str(name)!r} is a folder: name a file")
    return names


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Comma-separated numbers. Raises RequestError naming the option."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"{option} {text!r} is not a list of numbers such as 0,0.3,0.6") from None


def read_latents(path: Path) -> NDArray[Any]:
    """A .npy file's array. Raises RequestError where it can't be read."""
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    except OSError as error:
        raise RequestError(f"--latents {str(path)!r} can't be read as a .npy file: {error.strerror or error}") from error
    except ValueError as error:  # numpy's own message would have it unpickled
        raise RequestError(f"--latents {str(path)!r} can't be read as a .npy file: it holds something else") from error
    if not isinstance(loaded, np.ndarray):
        raise RequestError(f"--latents {str(path)!r} holds several arrays: give a .npy file with one")
    return loaded


def memory_bytes(text: str | None) -> int | None:
    """The bytes of a size such as "4GB", "4GiB", "1.5 GB" or "1000000B". Raises RequestError for anything else."""
    if text is None:
        return None
    match = SIZE.fullmatch(text)
    if match is None or match[3] and not match[2]:
        raise RequestError(f"--memory-limit {text!r} is not a size such as 4GB, 4GiB or 512MiB")
    number, prefix, binary, unit = match.groups()
    if not (prefix or unit):
        raise RequestError(f"--memory-limit {text!r} lacks a unit: say {number}GB, {number}GiB or {number}MB; B is bytes")
    size = int(Decimal(number) * (1024 if binary else 1000) ** " KMGT".index((prefix or " ").upper()))
    if size < 1:
        raise RequestError(f"--memory-limit {text!r} is below the smallest size, 1 byte")
    return size
