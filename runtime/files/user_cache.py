"""The user's cache folder, and a secret in it that tells this user's own files from everybody else's.

Whoever made a bundle can also make a file that looks like one of ours, but doesn't know the secret: a file is ours where its MAC
(HMAC-SHA256) is right. This is the one module of the library that reads environment variables: they say where the folder is.
"""

from __future__ import annotations

import errno
import hmac
import os
import secrets
import stat
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from .writing import temporary_name

FOLDER = "omnigen2-rt"
SECRET = "secret"
SECRET_BYTES = 32
PLACES = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("XDG_CACHE_HOME", "Library/Caches")}
"""By system: the variable that names the folder of caches, and its place in the user's home without it."""
LINUX = ("XDG_CACHE_HOME", ".cache")
READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class UserCache(NamedTuple):
    """This package's folder in the user's cache.

    secret: the user's, or one of this process alone.
    problem: why nothing can be kept, or None. The secret is then this process's, and the folder may be missing.
    """

    folder: Path
    secret: bytes
    problem: str | None

    def mac(self, purpose: str, *parts: bytes | memoryview) -> str:
        """The MAC of the joined parts, 64 hexadecimal digits. Files of different purposes never have the same."""
        code = hmac.new(self.secret, f"{purpose}\0".encode(), "sha256")
        for part in parts:
            code.update(part)
        return code.hexdigest()


def user_cache() -> UserCache:
    """The user's cache. Makes its folder and its secret where they are missing; several processes agree on one secret."""
    variable, place = PLACES.get(sys.platform, LINUX)
    named = os.environ.get(variable, "")
    return _open(named if os.path.isabs(named) else os.path.expanduser(f"~/{place}"))


@cache
def _open(caches: str) -> UserCache:
    folder = Path(caches) / FOLDER
    try:
        if not folder.is_absolute():
            raise OSError(errno.ENOENT, "this user has no home folder")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return UserCache(folder, _stored_secret(folder / SECRET), None)
    except OSError as error:
        problem = f"{str(folder)!r} can't hold the user's secret: {error.strerror or error}"
        return UserCache(folder, secrets.token_bytes(SECRET_BYTES), problem)


def _stored_secret(file: Path) -> bytes:
    """The secret in a file, which is made where it is missing. Raises OSError."""
    if not os.path.lexists(file):
        with suppress(FileExistsError):  # another process was quicker
            _create(file)
    return _read(file)


def _create(file: Path) -> None:
    """Make the file with a new secret: whole at once, so that another process never reads half of it. Raises FileExistsError."""
    partial = file.with_name(temporary_name())
    _write_new(partial)
    try:
        os.link(partial, file)
    except FileExistsError:
        raise
    except OSError:  # a filesystem without links
        _write_new(file)
    finally:
        partial.unlink()


def _write_new(file: Path) -> None:
    with os.fdopen(os.open(file, CREATE, 0o600), "wb") as new:
        new.write(secrets.token_bytes(SECRET_BYTES))


def _read(file: Path) -> bytes:
    """The secret in a file that belongs to this user and that nobody else may read. Raises OSError."""
    with os.fdopen(os.open(file, READ), "rb") as opened:
        state = os.fstat(opened.fileno())
        is_private = not hasattr(os, "geteuid") or (state.st_uid == os.geteuid() and not state.st_mode & 0o077)
        if not (stat.S_ISREG(state.st_mode) and state.st_size == SECRET_BYTES and is_private):
            raise OSError(errno.EPERM, f"{file.name!r} is not a private file of {SECRET_BYTES} bytes of this user: delete it")
        return opened.read(SECRET_BYTES)
