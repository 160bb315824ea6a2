"""Locks of files and folders: one holder at a time, on systems with either kind of lock, and an error where there is none."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from omnigen2_rt.runtime.files import locking
from omnigen2_rt.runtime.files.exchange import exchange
from omnigen2_rt.runtime.files.locking import folder_lock, try_lock


class WindowsLocks:
    """msvcrt's `locking`: locks bytes from the file's position on, and refuses those that another descriptor locked."""

    LK_NBLCK = 2

    def __init__(self) -> None:
        self.holders: dict[tuple[int, int], int] = {}

    def locking(self, descriptor: int, mode: int, count: int) -> None:
        assert (mode, count) == (self.LK_NBLCK, 1)
        place = (os.fstat(descriptor).st_ino, os.lseek(descriptor, 0, os.SEEK_CUR))
        if self.holders.setdefault(place, descriptor) != descriptor:
            raise PermissionError(errno.EACCES, "Permission denied")


@pytest.mark.parametrize("system", ["POSIX", "Windows"])
def test_lock_has_one_holder_and_its_file_stays_readable(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if system == "Windows":
        monkeypatch.setattr(locking, "fcntl", None)
        monkeypatch.setattr(locking, "msvcrt", WindowsLocks())
    with (tmp_path / "lock").open("a+b") as first, (tmp_path / "lock").open("a+b") as second:
        assert try_lock(first.fileno()) and not try_lock(second.fileno())
        first.write(b"me")
        first.flush()
        assert (tmp_path / "lock").read_bytes() == b"me"


def test_lock_is_free_once_its_holder_was_killed(tmp_path: Path) -> None:
    program = "import os, signal, sys\nfrom omnigen2_rt.runtime.files.locking import try_lock\n"
    program += "assert try_lock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT))\nos.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "lock"]).returncode < 0
    with (tmp_path / "lock").open("a+b") as file:
        assert try_lock(file.fileno())


def test_system_without_locks_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "fcntl", None)
    monkeypatch.setattr(locking, "msvcrt", None)
    with (tmp_path / "lock").open("a+b") as file, pytest.raises(OSError, match="no locks"):
        try_lock(file.fileno())
    with folder_lock(tmp_path):
        pass


def test_folder_lock_makes_a_second_process_wait(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with folder_lock(tmp_path):
            order.append("second")

    with folder_lock(tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_folder_lock_that_another_program_never_frees_is_not_waited_for_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "LONGEST_WAIT_S", 0.05)
    with folder_lock(tmp_path), folder_lock(tmp_path):
        pass


def test_exchange_gives_each_folder_the_others_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    second.mkdir()
    (first / "x").touch()
    if exchange(first, second):
        assert (os.listdir(first), os.listdir(second)) == ([], ["x"])
        assert exchange(first, second)
    assert not exchange(first, tmp_path / "absent")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not exchange(first, second)
    assert (os.listdir(first), os.listdir(second)) == (["x"], [])
