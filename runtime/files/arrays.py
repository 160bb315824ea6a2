"""Arrays in .npy files of anyone: nothing is unpickled, and no memory is taken for more than the file holds."""

from __future__ import annotations

import math
import os
import warnings
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RequestError
from .reading import open_regular

MAX_ARRAY_BYTES = 2**31
_MAX_HEADER_BYTES = 2**16


def read_array(path: Path) -> NDArray[Any]:
    """A .npy file's array. Raises RequestError, whose message goes after the file's name, for what can't be read as one."""
    try:
        with open_regular(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy tells the oddities of a header, which are of no use to the user
            return _read(file)
    except OSError as error:
        raise RequestError(f"can't be read as a .npy file: {error.strerror or error}") from error
    except RequestError:
        raise
    except Exception as error:  # numpy's reader facing damaged bytes may raise anything, and its message advises to unpickle
        raise RequestError("can't be read as a .npy file: it holds something else") from error


def _read(file: BufferedReader) -> NDArray[Any]:
    """The array of a .npy file. Raises RequestError for another length than the header announces, or too much."""
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
    if needed > MAX_ARRAY_BYTES:
        raise RequestError(f"can't be read: it holds {needed} bytes; noise has at most {MAX_ARRAY_BYTES}")
    array: NDArray[Any] = np.frombuffer(file.read(needed), dtype).reshape(shape, order="F" if is_fortran else "C")
    return array
