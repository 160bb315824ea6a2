"""The protocol of outputs, to which a batch's pictures go, and a folder as one. Knows no rows."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from ..runtime.errors import RequestError
from ..runtime.files.lines import go_behind_last_line, read_lines
from ..runtime.files.locking import open_lock, try_lock
from ..runtime.files.reading import read_bytes
from ..runtime.files.writing import PARTIAL_NAME, write_whole

MANIFEST_FILE = "manifest.jsonl"
LINE_BEGIN = b'{"row": '
"""The beginning of every line of the manifest."""
MAX_PICTURE_BYTES = 2**31
PROBE_BYTES = 2**20


class Output(Protocol):
    """Files by name, and the manifest, a list of lines.

    manifest: the manifest's place, for messages.
    keeps_whole: whether a file of the right size is whole; otherwise its content is checked.
    """

    manifest: str
    keeps_whole: bool

    def size(self, name: str) -> int | None:
        """A file's bytes, or None where there is no such file. Raises RequestError."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file's content, or None where there is no such file. Raises RequestError."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all; it replaces the one of that name. Raises RequestError."""
        ...

    def lines(self) -> Iterator[bytes]:
        """The manifest's lines, oldest first. Raises RequestError."""
        ...

    def append(self, line: bytes) -> None:
        """Add a line, with its line end, to the manifest. Raises RequestError."""
        ...

    def close(self) -> None:
        """Write the rest of the manifest and unlock the output. Raises RequestError."""
        ...


class FolderOutput:
    """A folder. Only one batch at a time works in it; another one is refused."""

    keeps_whole = False

    def __init__(self, folder: Path) -> None:
        """Open a folder, made where it is missing. Raises RequestError where it can't be, or another batch works in it."""
        self._folder = folder
        self.manifest = str(folder / MANIFEST_FILE)
        if os.path.isfile(folder):
            raise RequestError(f"{str(folder)!r} is a file: name a folder for the pictures")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._manifest = open_lock(folder / MANIFEST_FILE)
        except (OSError, ValueError) as error:
            raise RequestError(f"{str(folder)!r} can't take pictures: {_reason(error)}") from error
        try:
            self._begin()
        except BaseException:
            self._manifest.close()
            raise

    def _begin(self) -> None:
        with suppress(OSError):  # a filesystem without locks
            if not try_lock(self._manifest.fileno()):
                raise RequestError(f"another batch is writing into {str(self._folder)!r}: wait for its end")
        try:
            _remove_partials(self._folder)
            with tempfile.TemporaryFile(dir=self._folder) as probe:
                probe.write(bytes(PROBE_BYTES))
                probe.flush()
        except OSError as error:
            raise RequestError(f"nothing can be written into {str(self._folder)!r}: {_reason(error)}") from error

    def size(self, name: str) -> int | None:
        """See Output.size."""
        try:
            return os.stat(self._folder / name).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RequestError(f"{str(self._folder / name)!r} can't be read: {_reason(error)}") from error

    def read(self, name: str) -> bytes | None:
        """See Output.read."""
        try:
            return read_bytes(self._folder / name, MAX_PICTURE_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RequestError(f"{str(self._folder / name)!r} can't be read: {_reason(error)}") from error

    def write(self, name: str, content: bytes) -> None:
        """See Output.write."""
        try:
            write_whole(self._folder / name, content)
        except OSError as error:
            raise RequestError(f"can't write {str(self._folder / name)!r}: {_reason(error)}") from error

    def lines(self) -> Iterator[bytes]:
        """See Output.lines. A last line without its end was cut off; `append` replaces it."""
        return read_lines(self._manifest)

    def append(self, line: bytes) -> None:
        """See Output.append."""
        try:
            go_behind_last_line(self._manifest, LINE_BEGIN)
            self._manifest.write(line)
            self._manifest.flush()
        except OSError as error:
            raise RequestError(f"can't write {self.manifest!r}: {_reason(error)}") from error

    def close(self) -> None:
        """See Output.close."""
        with suppress(OSError):  # what couldn't be written was reported by `append`
            self._manifest.close()


def _remove_partials(folder: Path) -> None:
    """Remove the temporary files of a batch that was killed while it wrote them."""
    for name in os.listdir(folder):
        if PARTIAL_NAME.fullmatch(name):
            (folder / name).unlink(missing_ok=True)


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
