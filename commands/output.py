"""Pictures as files. What can't be written to its file is not lost: it goes to a new temporary folder, and an error says so."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..runtime.errors import RequestError
from ..runtime.images.png import save_png


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A picture on its way to a file, with the parameters that the file keeps."""

    image: Image.Image
    parameters: Mapping[str, Any] = field(default_factory=dict)


def save_all(pictures: Iterable[tuple[Picture, Path]], say: Callable[[Path], object] = lambda path: None) -> None:
    """Saves pictures, replacing what bears their names; calls `say` with each file's name.

    Raises RequestError, once all were tried, where one couldn't be written; it says where that is kept.
    """
    unsaved: list[tuple[Picture, RequestError]] = []
    for picture, path in pictures:
        try:
            save_png(picture.image, path, picture.parameters)
        except RequestError as error:
            unsaved.append((picture, error))
        else:
            say(path)
    _keep_beside(unsaved)


def save_numbered(images: Iterable[Image.Image], folder: Path) -> list[Path]:
    """Saves pictures under names that are free in `folder`: picture-1.png, picture-2.png, … Returns the files.

    A name is taken before its file is written: of several processes each gets its own. Raises RequestError as `save_all`.
    """
    saved: list[Path] = []
    unsaved: list[tuple[Picture, RequestError]] = []
    for image in images:
        try:
            saved.append(_save_under_free_name(image, folder))
        except RequestError as error:
            unsaved.append((Picture(image=image), error))
    _keep_beside(unsaved)
    return saved


def _save_under_free_name(image: Image.Image, folder: Path) -> Path:
    path = _taken_name(folder)
    try:
        save_png(image, path, {})
    except RequestError:
        with suppress(OSError):
            path.unlink()
        raise
    return path


def _taken_name(folder: Path) -> Path:
    """The first free name, as an empty file."""
    for number in itertools.count(1):
        path = folder / f"picture-{number}.png"
        try:
            path.open("xb").close()
        except FileExistsError:
            continue
        except (OSError, ValueError) as error:
            raise RequestError(f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}") from error
        return path
    raise AssertionError("count never ends")


def _keep_beside(unsaved: Sequence[tuple[Picture, RequestError]]) -> None:
    """Saves these pictures in a new temporary folder. Raises RequestError that says so, if there are any."""
    if not unsaved:
        return
    reason = unsaved[0][1]
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="omnigen2-"))
        for number, (picture, _) in enumerate(unsaved, 1):
            save_png(picture.image, folder / f"picture-{number}.png", picture.parameters)
    except (OSError, RequestError) as error:
        if folder is not None:
            with suppress(OSError):
                folder.rmdir()
        raise RequestError(f"{reason}; nor can a temporary folder be written to: {error}") from error
    raise RequestError(f"{reason}; what was drawn is kept in {str(folder)!r}") from reason
