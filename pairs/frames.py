"""The frames of a folder in their order. Opens each once to see whether it is a picture."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..runtime.errors import RequestError
from ..runtime.files.hashes import file_hash
from ..runtime.images.loading import load_image

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_DIGITS = re.compile(r"(\d+)")


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame.

    number: 0 for the first.
    path: its file.
    digest: SHA-256 of the file.
    """

    number: int
    path: Path
    digest: str

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.path.name

    def load(self) -> Image.Image:
        """The picture. Raises RequestError where the file holds none."""
        return load_image(self.path)

    def problem(self) -> str:
        """The reason why it is no picture, or ""."""
        try:
            self.load()
        except RequestError as error:
            return str(error)
        return ""


def frames_in(folder: Path) -> list[Frame]:
    """The pictures' files of a folder in the order of their names, numbers by value; hidden ones are left out.

    Raises RequestError where there are none, or one can't be read.
    """
    try:
        every = (name for name in os.listdir(folder) if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."))
        paths = [folder.absolute() / name for name in sorted(every, key=lambda name: (_order(name), name))]
        frames = [Frame(number=number, path=path, digest=file_hash(path)) for number, path in enumerate(paths)]
    except OSError as error:
        if error.filename and Path(error.filename) != folder:
            raise RequestError(f"the frame {str(error.filename)!r} can't be read: {error.strerror or error}") from error
        raise RequestError(f"the frames in {str(folder)!r} can't be read: {error.strerror or error}") from error
    if not frames:
        raise RequestError(f"{str(folder)!r} holds no frames: name a folder of {', '.join(SUFFIXES)} files")
    return frames


def _order(name: str) -> list[tuple[int, str]]:
    """A key that sorts "frame-10" behind "frame-9"."""
    parts = _DIGITS.split(name)
    return [(int(part), "") if number % 2 else (0, part) for number, part in enumerate(parts)]
