"""Command-line text as the values that `Request` and `load` take: caches, times, noise, sizes of memory, names of files.

Which values are allowed for a drawing, `Request` says.
"""

from __future__ import annotations

import math
import os
import re
import stat
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..runtime.errors import RequestError
from ..runtime.files.arrays import read_array
from ..runtime.step_caches import CACHES, CachePolicy, TeaCache

_PROBE_BYTES = 2**20
SIZE = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([KMGT]?)(i?)(B?)\s*", re.IGNORECASE)
"""A number, a prefix, whether it counts in powers of 1024, and the unit, which may be left out after a prefix."""
LORA = re.compile(r"(?P<file>.*):(?P<scale>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)", re.DOTALL)
"""A LoRA with its scale. A colon before anything but a number, as in C:\\style, belongs to the file's name."""


def cache_policy(name: str | None, threshold: float | None) -> CachePolicy | None:
    """The cache policy of a name. Raises RequestError for an unknown one."""
    if threshold is not None and name != "teacache":
        raise RequestError("--tea-threshold belongs to --cache teacache")
    if name is None:
        return None
    if name not in CACHES:
        raise RequestError(f"--cache {name!r} is unknown; choose {' or '.join(CACHES)}")
    return CACHES[name]() if threshold is None else TeaCache(threshold=threshold)


def lora_folder(text: str) -> Path:
    """The folder of --lora-dir. Raises RequestError for an empty name, as an unset variable of the shell gives it."""
    if not text:
        raise RequestError("--lora-dir is empty: name a folder, or . for the current one")
    return Path(text)


def picture_names(out: Path, count: int) -> list[Path]:
    """The files of `count` pictures. Raises RequestError, before anything is drawn, where they couldn't be written."""
    if out.suffix.lower() != ".png":
        raise RequestError(f"--out {str(out)!r} must end in .png")
    if not out.parent.is_dir():
        raise RequestError(f"the folder of --out, {str(out.parent)!r}, does not exist: make it first")
    names = [out] if count == 1 else [out.with_name(f"{out.stem}-{k}{out.suffix}") for k in range(count)]
    for name in names:
        _check_name(name)
    _check_folder(out.parent)
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
        return read_array(path)
    except RequestError as error:
        raise RequestError(f"--latents {str(path)!r} {error}") from error


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


def lora_option(text: str) -> tuple[Path, float]:
    """File and scale of FILE or FILE:SCALE. Raises RequestError for a scale that isn't finite."""
    match = LORA.fullmatch(text)
    file, scale = (text, 1.0) if match is None else (match["file"], float(match["scale"]))
    if not file.strip() or not math.isfinite(scale):
        raise RequestError(f"--lora {text!r} is not FILE or FILE:SCALE, such as style.safetensors:0.8")
    return Path(file), scale


def _check_name(name: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(name).st_mode)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise RequestError(f"--out can't be {str(name)!r}: {getattr(error, 'strerror', None) or error}") from error
    if is_folder:
        raise RequestError(f"--out {str(name)!r} is a folder: name a file")


def _check_folder(folder: Path) -> None:
    """Writes a megabyte there and takes it back: permissions alone don't tell of quotas and full disks."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
            probe.flush()
    except OSError as error:
        raise RequestError(
            f"nothing can be written into the folder of --out, {str(folder)!r}: {error.strerror or error}"
        ) from error
