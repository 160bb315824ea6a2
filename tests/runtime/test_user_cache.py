"""The user's cache folder and the secret in it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from omnigen2_rt.runtime.files import user_cache as module
from omnigen2_rt.runtime.files.user_cache import FOLDER, SECRET, SECRET_BYTES, UserCache, user_cache


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds the caches of a user's programs."""
    folder = tmp_path / "caches"
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(variable, str(folder))
    return folder


def opened_anew() -> UserCache:
    """The cache as another process opens it."""
    module._open.cache_clear()
    return user_cache()


def test_secret_is_made_once_and_private(caches: Path) -> None:
    first, second = user_cache(), opened_anew()
    assert first == second == (caches / FOLDER, (caches / FOLDER / SECRET).read_bytes(), None)
    assert len(first.secret) == SECRET_BYTES and len({*first.secret}) > 8
    assert stat.S_IMODE((caches / FOLDER / SECRET).stat().st_mode) == 0o600
    assert [path.name for path in (caches / FOLDER).iterdir()] == [SECRET]


def test_secret_of_processes_that_start_at_once_is_the_same() -> None:
    code = "from omnigen2_rt.runtime.files.user_cache import user_cache; print(user_cache().secret.hex(), user_cache().problem)"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate()[0] for process in processes}
    assert len(answers) == 1 and answers.pop().endswith(" None\n")


def test_secret_on_a_filesystem_without_links_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert user_cache().problem is None and opened_anew() == user_cache()


def test_secret_that_another_process_made_meanwhile_is_taken(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quicker(file: Path) -> None:
        module._write_new(file)
        raise FileExistsError

    monkeypatch.setattr(module, "_create", quicker)
    assert user_cache().secret == (caches / FOLDER / SECRET).read_bytes()


def short(file: Path) -> None:
    file.write_bytes(b"short")
    file.chmod(0o600)


def readable(file: Path) -> None:
    file.write_bytes(bytes(SECRET_BYTES))
    file.chmod(0o644)


def link(file: Path) -> None:
    target = file.with_name("target")
    target.write_bytes(bytes(SECRET_BYTES))
    target.chmod(0o600)
    file.symlink_to(target)


@pytest.mark.parametrize("spoil", [short, readable, link, Path.mkdir, os.mkfifo])
def test_secret_that_others_may_know_is_not_used(caches: Path, spoil: Callable[[Path], None]) -> None:
    (caches / FOLDER).mkdir(parents=True)
    spoil(caches / FOLDER / SECRET)
    cache = user_cache()
    assert cache.problem is not None and "can't hold the user's secret" in cache.problem
    assert cache.secret != bytes(SECRET_BYTES) and cache.secret == user_cache().secret != opened_anew().secret


def test_secret_where_nothing_can_be_written_is_this_process_alone(caches: Path) -> None:
    caches.write_bytes(b"a file is in the way")
    cache = user_cache()
    assert cache.problem is not None and len(cache.secret) == SECRET_BYTES


@pytest.mark.parametrize("named", ["", "relative/folder"])
def test_folder_without_an_absolute_name_is_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", named)
    monkeypatch.setenv("HOME", str(tmp_path))
    for system, place in (("linux", ".cache"), ("darwin", "Library/Caches")):
        monkeypatch.setattr(module.sys, "platform", system)
        assert user_cache().folder == tmp_path / place / FOLDER


def test_user_without_a_home_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    module._open.cache_clear()
    assert "this user has no home folder" in str(user_cache().problem)


def test_mac_depends_on_secret_purpose_and_every_byte() -> None:
    cache = user_cache()
    macs = {
        cache.mac("a", b"12", b"3"),
        cache.mac("a", b"123"),
        cache.mac("b", b"123"),
        cache.mac("a", b"124"),
        cache._replace(secret=b"other").mac("a", b"123"),
    }
    assert len(macs) == 4 and all(len(mac) == 64 for mac in macs)
