"""Pictures on their way to files: what is checked before drawing, and where they go when their file can't be written."""

from __future__ import annotations

import errno
import os
import pickle
import re
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnigen2_rt.commands.option_values import picture_names, read_latents
from omnigen2_rt.commands.output import Picture, save_all, save_numbered
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.images.png import read_parameters

RED = Image.new("RGB", (4, 4), "red")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the system, for this test alone."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# Before drawing


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a.jpg", "must end in .png"),
        ("a", "must end in .png"),
        ("missing/a.png", "does not exist: make it first"),
        ("file.png/a.png", "does not exist: make it first"),
        ("folder.png", "is a folder: name a file"),
        (f"{'a' * 252}.png", "File name too long"),
        ("a\0.png", "embedded null byte"),
    ],
)
def test_name_that_cannot_be_written_is_refused(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file.png").touch()
    with pytest.raises(RequestError, match=re.escape(said)):
        picture_names(tmp_path / name, 1)


def test_name_whose_number_makes_it_too_long_is_refused(tmp_path: Path) -> None:
    fits = tmp_path / f"{'a' * 250}.png"
    assert picture_names(fits, 1) == [fits]
    with pytest.raises(RequestError, match="File name too long"):
        picture_names(fits, 2)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_folder_that_takes_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Known only after an hour of drawing, it lost the picture."""

    def refuse(**settings: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(RequestError, match=f"nothing can be written into the folder of --out, .*: {os.strerror(number)}"):
        picture_names(tmp_path / "a.png", 1)


def test_name_that_is_checked_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"old")
    picture_names(tmp_path / "a.png", 1)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


# After drawing


def test_picture_that_cannot_be_written_is_kept_in_a_temporary_folder(tmp_path: Path, temporary: Path) -> None:
    (tmp_path / "taken.png").mkdir()
    said: list[Path] = []
    pictures = [(Picture(image=RED, parameters={"index": k}), tmp_path / name) for k, name in enumerate(["taken.png", "b.png"])]
    with pytest.raises(RequestError) as caught:
        save_all(pictures, said.append)
    (kept,) = temporary.iterdir()
    reason = f"cannot write {str(tmp_path / 'taken.png')!r}: Is a directory"
    assert str(caught.value) == f"{reason}; what was drawn is kept in {str(kept)!r}"
    assert said == [tmp_path / "b.png"]
    assert [read_parameters(path) for path in kept.iterdir()] == [{"index": 0}]


def test_picture_that_cannot_be_written_anywhere_says_so_and_leaves_nothing(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(*words: object, **settings: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", no_space)
    with pytest.raises(RequestError, match="No space left on device; nor can a temporary folder be written to"):
        save_all([(Picture(image=RED), tmp_path / "a.png")])
    assert not list(temporary.iterdir()) and list(tmp_path.iterdir()) == [temporary]


def test_pictures_saved_at_the_same_time_get_names_of_their_own(tmp_path: Path) -> None:
    """Two processes that found the same name free overwrote each other's picture."""
    (tmp_path / "picture-2.png").write_bytes(b"old")
    together = threading.Barrier(8)

    def save(number: int) -> list[Path]:
        together.wait()
        return save_numbered([Image.new("RGB", (2, 2), (number, 0, 0))] * 2, tmp_path)

    with ThreadPoolExecutor(8) as pool:
        files = [file for saved in pool.map(save, range(8)) for file in saved]
    assert len(set(files)) == 16 and (tmp_path / "picture-2.png").read_bytes() == b"old"
    shades = []
    for file in files:
        with Image.open(file) as image:
            shades.append(image.getpixel((0, 0)))
    assert shades == [(number, 0, 0) for number in range(8) for _ in range(2)]


def test_numbered_picture_that_cannot_be_written_is_kept_and_frees_its_name(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="what was drawn is kept in"):
        save_numbered([RED], tmp_path / "gone")
    (kept,) = temporary.iterdir()
    with Image.open(kept / "picture-1.png") as image:
        assert image.size == (4, 4)
    monkeypatch.setattr("omnigen2_rt.commands.output.save_png", _refuse)
    with pytest.raises(RequestError, match="no"):
        save_numbered([RED], tmp_path)
    assert list(tmp_path.iterdir()) == [temporary]


def _refuse(*words: object) -> None:
    raise RequestError("no")


# Noise


def npy(header: bytes, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(header).to_bytes(2, "little") + header + data


def declared(shape: object, dtype: str = "<f4") -> bytes:
    return f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it holds something else"),
        (b"PK\3\4 a zip file", "it holds something else"),
        (pickle.dumps([1.0]), "it holds something else"),
        (npy(b"{"), "it holds something else"),
        (npy(b"(" * 9000), "it holds something else"),
        (npy(b"[" * 9000 + b"]" * 9000), "it holds something else"),
        (npy(declared((1, 4, 2, 2)), version=b"\x09\0"), "it holds something else"),
        (npy(declared((10**12,))), "an array (1000000000000,) of float32 is announced, and 0 bytes follow"),
        (npy(declared((10**300, 10**300))), "and 0 bytes follow"),
        (npy(declared((-1, -4)), bytes(16)), "an array (-1, -4) of float32 is announced, and 16 bytes follow"),
        (npy(declared((1, 4, 2, 2)), bytes(63)), "an array (1, 4, 2, 2) of float32 is announced, and 63 bytes follow"),
        (npy(declared((1, 4, 2, 2)), bytes(65)), "and 65 bytes follow"),
        (npy(declared((1,), "|O"), bytes(8)), "an array (1,) of object is announced, and 8 bytes follow"),
        (npy(declared((2,), "<f99")), "it holds something else"),
    ],
)
def test_latents_of_every_broken_kind_are_refused_in_a_line(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "noise.npy"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=re.escape(said)) as caught:
        read_latents(path)
    assert str(caught.value).startswith(f"--latents {str(path)!r} can't be read")


def test_latents_that_are_no_regular_file_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "noise.npy")
    for path in (tmp_path / "noise.npy", tmp_path, "/dev/zero"):
        with pytest.raises(RequestError, match="not a regular file|Is a directory"):
            read_latents(Path(path))


@pytest.mark.parametrize(
    "noise",
    [np.ones((1, 2, 3, 4), np.float16), np.asfortranarray(np.arange(24.0).reshape(1, 2, 3, 4)), np.zeros((0, 3))],
)
def test_latents_that_numpy_saved_are_read(tmp_path: Path, noise: Any) -> None:
    np.save(tmp_path / "noise.npy", noise)
    loaded = read_latents(tmp_path / "noise.npy")
    np.testing.assert_array_equal(loaded, noise)
    assert loaded.dtype == noise.dtype
