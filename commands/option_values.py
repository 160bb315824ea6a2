"""Command-line text as the values that `Request` and `load` take: caches, times, sizes of memory, names of files.

Which values are allowed for a drawing, `Request` says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import RequestError
from ..runtime.step_caches import CACHES, CachePolicy, TeaCache


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
    """ "4GB", "500MB" or a number of bytes. Raises RequestError for anything else."""
    if text is None:
        return None
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "": 1}
    digits = text.rstrip("KMGBkmgb ")
    unit = text[len(digits) :].strip().upper()
    try:
        size = int(float(digits) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise RequestError(f"--memory-limit {text!r} is not a size such as 4GB or 500MB") from None
    if size < 1:
        raise RequestError(f"--memory-limit {text!r} is below the smallest size, 1 byte")
    return size
