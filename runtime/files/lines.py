"""Files that grow by whole lines, such as JSONL.

A process that is killed leaves half a line at most, at the end; the next one that appends removes it, if it is one of ours. A
whole JSON value without a line end gets one. Any other line without its end is somebody's own, and such a file is refused.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .json_text import parse_json
from .locking import open_lock, wait_for_lock

MAX_LINE_BYTES = 2**26
"""The longest line that is read."""
_PIECE_BYTES = 2**16


def append_lines(path: Path, lines: Iterable[bytes], beginning: bytes) -> None:
    """Append lines, each with its line end, to a file that other processes may append to as well. Raises OSError.

    Makes the file where it is missing. All lines are written in one piece and reach the disk. Without any, only looks whether
    lines can be appended. beginning: see `go_behind_last_line`.
    """
    content = b"".join(lines)
    with open_lock(path) as file:
        wait_for_lock(file.fileno())
        if not content:
            check_last_line(file, beginning)
            return
        go_behind_last_line(file, beginning)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Every line of a file from its beginning. The last one lacks its line end where it was cut off."""
    file.seek(0)
    while line := file.readline(MAX_LINE_BYTES):
        yield line


def go_behind_last_line(file: BinaryIO, beginning: bytes) -> None:
    """Seek to the end of a file, and see to it that a new line can begin there: call it when there is something to append.

    A last line without its line end gets one if it is a whole JSON value. Otherwise a crash cut it off: it is removed.

    beginning: the first bytes of every line that the caller writes. Raises OSError for half a line that begins otherwise.
    """
    begin, line = _last_line(file, beginning)
    if line and _is_whole(line):
        file.seek(0, os.SEEK_END)
        file.write(b"\n")
        return
    if line:
        file.truncate(begin)
    file.seek(begin)


def check_last_line(file: BinaryIO, beginning: bytes) -> None:
    """Raises OSError where `go_behind_last_line` would. Changes nothing."""
    _last_line(file, beginning)


def _last_line(file: BinaryIO, beginning: bytes) -> tuple[int, bytes]:
    """The place and the bytes of a last line without its line end; the end and b"" where there is none.

    Raises OSError for half a line of somebody else's.
    """
    end = begin = file.seek(0, os.SEEK_END)
    line = b""
    while begin > 0:
        begin = max(0, begin - _PIECE_BYTES)
        file.seek(begin)
        line = file.read(min(_PIECE_BYTES, end - begin - len(line))) + line
        if b"\n" in line:
            place = line.rindex(b"\n") + 1
            begin, line = begin + place, line[place:]
            break
    if line and not _is_whole(line) and line[: len(beginning)] != beginning[: len(line)]:
        problem = "its last line has no line end and was not written by this program: end or remove it, or name another file"
        raise OSError(errno.EINVAL, problem)
    return begin, line


def _is_whole(line: bytes) -> bool:
    try:
        parse_json(line)
    except ValueError:
        return False
    return True
