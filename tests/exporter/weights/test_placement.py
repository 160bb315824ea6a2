"""Weight files in a bundle: linked where that is possible, else copied, whatever the filesystem's words for "no links here"."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omnigen2_rt.exporter.weights import placement
from omnigen2_rt.exporter.weights.placement import place, place_all
from omnigen2_rt.runtime.errors import ExportError

NO_LINKS = ("EXDEV", "EPERM", "EMLINK", "EOPNOTSUPP", "EACCES", "ENOSYS", "EINVAL", "ENOTTY", "EIO", "ELOOP")
NO_LINKS_ON_MACOS = 45


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "a").write_bytes(b"weights")
    return tmp_path / "a"


def fail_to_link(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def link(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(placement.os, "link", link)


def test_file_is_linked_where_that_is_possible(source: Path, tmp_path: Path) -> None:
    assert place(source, tmp_path / "out" / "b") is None
    assert (tmp_path / "out" / "b").samefile(source)


@pytest.mark.parametrize("code", [*(getattr(errno, name) for name in NO_LINKS), NO_LINKS_ON_MACOS])
def test_file_that_can_not_be_linked_is_copied_and_that_is_reported(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Only five errors counted as "no links here": FUSE, macOS and some network filesystems have others."""
    fail_to_link(monkeypatch, code)
    monkeypatch.setattr(placement, "_reflink", lambda *_: False)
    assert place(source, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights" and not (tmp_path / "b").samefile(source)


@pytest.mark.parametrize(
    ("code", "owner", "reason"),
    [
        (errno.EXDEV, 0, "the new folder lies on another filesystem"),
        (errno.EPERM, 0, r"no link is possible there \(Operation not permitted\)"),
        (errno.EPERM, 1, "they belong to another user, and this system allows no links to them"),
    ],
)
def test_copies_are_reported_with_their_number_size_and_reason(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, owner: int, reason: str
) -> None:
    """The note said that the folder had to be on the bundle's filesystem where the kernel protects others' files from links."""
    fail_to_link(monkeypatch, code)
    monkeypatch.setattr(placement, "_reflink", lambda *_: False)
    monkeypatch.setattr(placement.os, "geteuid", lambda: source.stat().st_uid + owner)
    copies = place_all([(source, tmp_path / "b"), (source, tmp_path / "c")])
    assert re.fullmatch(rf"2 files were copied \(0\.0 MB\): {reason}.*", str(copies)) and copies.size_bytes == 14


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_an_error_and_leaves_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fail_to_link(monkeypatch, code)
    with pytest.raises(ExportError, match=rf"can't write '.*b': {os.strerror(code)}"):
        place(source, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_missing_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"can't write '.*b': No such file"):
        place(tmp_path / "absent", tmp_path / "b")


def test_copy_that_has_no_room_is_refused_before_it_begins(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_to_link(monkeypatch, errno.EXDEV)
    monkeypatch.setattr(placement, "_reflink", lambda *_: False)
    monkeypatch.setattr(placement.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(b"weights") - 1))
    monkeypatch.setattr(placement.shutil, "copyfile", lambda *_: pytest.fail("copied"))
    with pytest.raises(ExportError, match="No space left on device"):
        place(source, tmp_path / "b")


def test_modules_that_use_fcntl_import_where_there_is_none() -> None:
    """`omnigen2 export` ended in an ImportError on Windows."""
    program = """
import sys
sys.modules["fcntl"] = None
import omnigen2_rt.exporter.staging, omnigen2_rt.exporter.engines.engine_store
from omnigen2_rt.exporter.weights import placement
from pathlib import Path
assert not placement._reflink(Path("a"), Path("b"))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
