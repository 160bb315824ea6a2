"""The chunks of PNG files: which there are, their texts, and a view of a file that leaves out all but the picture.

A file's texts may be larger than the picture, or expand to gigabytes; an input image is read without them. Decodes no pixels.
A RequestError of this module goes after the file's name.
"""

from __future__ import annotations

import io
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from io import BufferedReader
from typing import NamedTuple

from ..errors import RequestError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 2**20
MAX_TEXT_BYTES = 2**26
"""The longest text that is read, expanded."""

_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # keys of texts in which programs keep EXIF tags
_MAX_ORIENTATION_BYTES = 2**16


class Chunk(NamedTuple):
    """A chunk's type and where its data lie in the file."""

    kind: bytes
    start: int
    length: int


def read_chunks(file: BufferedReader) -> Iterator[Chunk]:
    """The chunks up to the last, or to where the file ends. Raises RequestError for no PNG file or over a million chunks."""
    file.seek(0)
    if file.read(8) != SIGNATURE:
        raise RequestError("is not a PNG file")
    position = 8
    for _ in range(MAX_CHUNKS):
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        chunk = Chunk(head[4:], position + 8, int.from_bytes(head[:4], "big"))
        yield chunk
        if chunk.kind == b"IEND":
            return
        position = chunk.start + chunk.length + 4
    raise RequestError(f"holds more than {MAX_CHUNKS} chunks, the most that are read")


def read_text(file: BufferedReader, key: str) -> str | None:
    """The last text of that key, or None. Raises RequestError for a damaged or too long one."""
    text = None
    for chunk in read_chunks(file):
        if chunk.kind in _TEXTS and _key(file, chunk) == key.encode("latin-1"):
            text = _decoded(chunk.kind, _data(file, chunk))
    return text


def is_whole(content: bytes) -> bool:
    """Whether it is a PNG file in which no byte was lost or changed: every checksum is right, and the last chunk is there."""
    try:
        chunks = list(read_chunks(io.BufferedReader(io.BytesIO(content))))
    except RequestError:
        return False
    return bool(chunks) and chunks[-1].kind == b"IEND" and all(_is_right(content, chunk) for chunk in chunks)


def _is_right(content: bytes, chunk: Chunk) -> bool:
    end = chunk.start + chunk.length
    return content[end : end + 4] == zlib.crc32(memoryview(content)[chunk.start - 4 : end]).to_bytes(4, "big")


def only_picture(file: BufferedReader) -> BufferedReader:
    """A view of a PNG file without animation, colour profile and texts, save for small ones that may tell the orientation."""
    ranges = [(0, 8)]
    for chunk in read_chunks(file):
        if chunk.kind in _PICTURE or _may_tell_orientation(file, chunk):
            ranges.append((chunk.start - 8, chunk.start + chunk.length + 4))
    return io.BufferedReader(_Ranges(file, _joined(ranges)), 2**16)


def _key(file: BufferedReader, chunk: Chunk) -> bytes:
    file.seek(chunk.start)
    return file.read(min(chunk.length, 80)).split(b"\0", 1)[0]


def _data(file: BufferedReader, chunk: Chunk) -> bytes:
    if chunk.length > MAX_TEXT_BYTES:
        raise RequestError(f"holds a text of {chunk.length} bytes; at most {MAX_TEXT_BYTES} are read")
    file.seek(chunk.start)
    data = file.read(chunk.length)
    if file.read(4) != zlib.crc32(data, zlib.crc32(chunk.kind)).to_bytes(4, "big"):
        raise RequestError("holds a damaged text: its checksum is wrong")
    return data


def _decoded(kind: bytes, data: bytes) -> str:
    _, _, rest = data.partition(b"\0")
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        return _expanded(rest[1:], MAX_TEXT_BYTES).decode("latin-1")
    text = rest[2:].split(b"\0", 2)[-1]  # after the language and the translated key
    try:
        return (text if rest[:1] == b"\0" else _expanded(text, MAX_TEXT_BYTES)).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"holds a damaged text: {error.reason}") from error


def _expanded(data: bytes, most_bytes: int) -> bytes:
    """The compressed bytes. Raises RequestError for damaged ones, or more than `most_bytes`."""
    expander = zlib.decompressobj()
    try:
        expanded = expander.decompress(data, most_bytes)
    except zlib.error as error:
        raise RequestError(f"holds a damaged text: {error}") from error
    if expander.unconsumed_tail:
        raise RequestError(f"holds a text that expands to more than {most_bytes} bytes, the most that are read")
    return expanded


def _may_tell_orientation(file: BufferedReader, chunk: Chunk) -> bool:
    if chunk.kind not in _TEXTS or chunk.length > _MAX_ORIENTATION_BYTES or _key(file, chunk) not in _ORIENTATION:
        return False
    try:
        return len(_decoded(chunk.kind, _data(file, chunk))) <= _MAX_ORIENTATION_BYTES
    except RequestError:
        return False


def _joined(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges in order, those that touch as one."""
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


class _Ranges(io.RawIOBase):
    """Ranges of a file, one after the other, as a file of their own."""

    def __init__(self, file: BufferedReader, ranges: list[tuple[int, int]]) -> None:
        self._file = file
        self._ranges = ranges
        self._begins = [0]  # of each range in this file, and the end
        for start, end in ranges:
            self._begins.append(self._begins[-1] + end - start)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._begins[-1]}[whence]
        self._position = max(0, origin + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._position >= self._begins[-1]:
            return 0
        index = bisect_right(self._begins, self._position) - 1
        length = min(len(buffer), self._begins[index + 1] - self._position)
        self._file.seek(self._ranges[index][0] + self._position - self._begins[index])
        count = self._file.readinto(memoryview(buffer)[:length])
        self._position += count
        return count
