"""Files that grow by whole lines, such as JSONL.

A process that is killed leaves half a line at most, at the end; the next one that appends removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .locking import open_lock, wait_for_lock

MAX_LINE_BYTES = 2**26
"""The longest line that is read."""
_PIECE_BYTES = 2**16


def append_lines(path: Path, lines: Iterable[bytes]) -> None:
    """Append lines, each with its line end, to a file that other processes may append to as well. Raises OSError.

    Makes the file where it is missing. All lines are written in one piece and reach the disk.
    """
    with open_lock(path) as file:
        wait_for_lock(file.fileno())
        go_behind_last_line(file)
        file.write(b"".join(lines))
        file.flush()
        os.fsync(file.fileno())


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Every line of a file from its beginning. The last one lacks its line end where it was cut off."""
    file.seek(0)
    while line := file.readline(MAX_LINE_BYTES):
        yield line


def go_behind_last_line(file: BinaryIO) -> None:
    """Seek to the end of a file's last whole line, and remove what stands behind it: a line cut off by a crash."""
    end = begin = file.seek(0, os.SEEK_END)
    while begin > 0:
        begin = max(0, begin - _PIECE_BYTES)
        file.seek(begin)
        piece = file.read(min(_PIECE_BYTES, end - begin))
        if b"\n" in piece:
            begin += piece.rindex(b"\n") + 1
            break
    if begin < end:
        file.truncate(begin)
    file.seek(begin)
