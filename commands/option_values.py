"""Command-line text as the values that `Request` and `load` take: caches, times, noise, sizes of memory, names of files.

Which values are allowed for a drawing, `Request` says.
"""

from __future__ import annotations

import math
import os
import re
import stat
import tempfile
import warnings
from decimal import Decimal
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.errors import RequestError
from ..runtime.files.reading import open_regular
from ..runtime.step_caches import CACHES, CachePolicy, TeaCache

MAX_LATENTS_BYTES = 2**31
_MAX_HEADER_BYTES = 2**16
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
    """A .npy file's array. Raises RequestError where it can't be read, before its memory is taken where it is too large."""
    name = f"--latents {str(path)!r}"
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy tells the oddities of a header, which are of no use to the user
            return _read_array(file)
    except OSError as error:
        raise RequestError(f"{name} can't be read as a .npy file: {error.strerror or error}") from error
    except RequestError as error:
        raise RequestError(f"{name} {error}") from error
    except Exception as error:  # numpy's reader facing damaged bytes may raise anything, and its message advises to unpickle
        raise RequestError(f"{name} can't be read as a .npy file: it holds something else") from error


def _read_array(file: BufferedReader) -> NDArray[Any]:
    """The array of a .npy file. Raises RequestError, which goes after the file's name, for another length than it announces."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"unknown version {version}")
    if version != (1, 0) and int.from_bytes(file.peek(4)[:4], "little") > _MAX_HEADER_BYTES:  # numpy would read all of it first
        raise RequestError(f"can't be read: its header is longer than {_MAX_HEADER_BYTES} bytes")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read_header(file)
    begin = file.tell()
    there, needed = os.fstat(file.fileno()).st_size - begin, math.prod(shape) * dtype.itemsize
    if needed != there or dtype.hasobject or min(shape, default=0) < 0:
        raise RequestError(f"can't be read: an array {shape} of {dtype} is announced, and {there} bytes follow")
    if needed > MAX_LATENTS_BYTES:
        raise RequestError(f"can't be read: it holds {needed} bytes; noise has at most {MAX_LATENTS_BYTES}")
    array: NDArray[Any] = np.frombuffer(file.read(needed), dtype).reshape(shape, order="F" if is_fortran else "C")
    return array


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
