"""An object store as the output of a batch: s3://, gs:// and az://, through obstore.

Objects can't be appended to, so the manifest is a folder of parts. A part is written every
minute or hundred lines, and at the end.
"""

from __future__ import annotations

import io
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.errors import OmniGen2Error, RequestError
from .disk_table import DiskTable
from .outputs import FolderOutput, Output

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3://", "gs://", "az://")
PARTS = "manifest"
PART_LINES = 100
PART_S = 60.0


def open_output(place: str) -> Output:
    """The folder or the object store of that name, opened. Raises RequestError where it can't be written to."""
    if "://" not in place:
        return FolderOutput(Path(place))
    if not place.startswith(SCHEMES):
        raise RequestError(f"the output {place!r} is no folder and begins with none of {', '.join(SCHEMES)}")
    try:
        from obstore.store import from_url
    except ImportError:
        raise OmniGen2Error('object stores need obstore: pip install "omnigen2-rt[stores]"') from None
    with _reporting(place):
        store = from_url(place)
    return StoreOutput(store, place)


class StoreOutput:
    """An object store, below a prefix. It has no lock: two batches at once draw their rows twice."""

    keeps_whole = True

    def __init__(self, store: ObjectStore, place: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Open a store and list what it holds. place: its address, for messages. Raises RequestError."""
        self.manifest = f"{place.rstrip('/')}/{PARTS}/"
        self._store, self._place, self._clock = store, place, clock
        self._sizes = DiskTable()
        self._run, self._part = _run_name(time.time_ns()), 0
        self._lines: list[bytes] = []
        self._since = clock()
        with _reporting(place):
            for found in (each for page in store.list() for each in page):
                self._sizes[found["path"]] = str(found["size"])
            self._parts = sorted(found["path"] for page in store.list(PARTS) for found in page)
        self._write_part()  # shows at once whether writing is allowed

    def size(self, name: str) -> int | None:
        """See Output.size."""
        text = self._sizes[name]
        return None if text is None else int(text)

    def read(self, name: str) -> bytes | None:
        """See Output.read."""
        if self._sizes[name] is None:
            return None
        with _reporting(f"{self._place}/{name}"):
            return bytes(self._store.get(name).bytes())

    def write(self, name: str, content: bytes) -> None:
        """See Output.write."""
        with _reporting(f"{self._place}/{name}"):
            self._store.put(name, content)
        self._sizes[name] = str(len(content))

    def lines(self) -> Iterator[bytes]:
        """See Output.lines."""
        for part in self._parts:
            yield from io.BytesIO(self.read(part) or b"")

    def append(self, line: bytes) -> None:
        """See Output.append. The line waits for its part."""
        self._lines.append(line)
        if len(self._lines) >= PART_LINES or self._clock() - self._since >= PART_S:
            self._write_part()

    def close(self) -> None:
        """See Output.close."""
        try:
            if self._lines:
                self._write_part()
        finally:
            self._sizes.close()

    def _write_part(self) -> None:
        self._since = self._clock()
        self.write(f"{PARTS}/{self._run}-{self._part:06d}.jsonl", b"".join(self._lines))
        self._lines, self._part = [], self._part + 1


def _run_name(now_ns: int) -> str:
    """The name of a run's parts: those of a later run sort behind them, also within a second."""
    seconds, rest_ns = divmod(now_ns, 10**9)
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(seconds))}.{rest_ns:09d}-{secrets.token_hex(4)}"


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """Turns an error of the store into a RequestError that names the place."""
    try:
        yield
    except OmniGen2Error:
        raise
    except Exception as error:  # obstore raises errors of its own, ValueError, FileNotFoundError and others
        reason = str(error).partition("Debug source:")[0].strip()
        raise RequestError(f"{what!r} can't be used: {reason}") from error
