"""The folder in which a new folder is written before it gets its name: it lies beside that name, the target, and bears a mark.

    omnigen2-unfinished-<32 hexadecimal digits>/
        lock           locked by the process at work; holds its number and since when
        job.json       the mark: the kind of work, the target, the source, a hash of all options, a MAC; removed last
        progress.json  what a later run of the same job can take over
        replacing      there while an existing folder is being replaced
        old/           the existing folder, renamed away where two folders can't be exchanged in one step
        new/           becomes the target

Recognizes such folders and says what to do with one. Writes none.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .json_text import read_object
from .user_cache import user_cache

PREFIX = "omnigen2-unfinished-"
NAME = re.compile(rf"{PREFIX}[0-9a-f]{{32}}")
MARK, LOCK, PROGRESS, REPLACING, OLD, NEW = "job.json", "lock", "progress.json", "replacing", "old", "new"
MAC = "mac"
PURPOSE = "unfinished folder"


def has_our_name(folder: Path) -> bool:
    """Whether it is a folder, no link, of a name of this kind, and belongs to this process's user: no other's mark is trusted."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    is_ours = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return NAME.fullmatch(folder.name) is not None and stat.S_ISDIR(status.st_mode) and is_ours


def read_mark(folder: Path) -> dict[str, Any] | None:
    """The mark of a folder of this kind, or None for any other folder."""
    try:
        mark = read_object(folder / MARK) if has_our_name(folder) else {}
    except (OSError, ValueError):
        return None
    return mark if isinstance(mark.get("kind"), str) and isinstance(mark.get("target"), str) else None


def signed_mark(folder: Path, mark: Mapping[str, Any]) -> dict[str, Any]:
    """The mark with its MAC, by the secret of this process's user. folder: the absolute path of the folder that bears it."""
    content = {name: value for name, value in mark.items() if name != MAC}
    text = json.dumps(content, sort_keys=True).encode()
    return {**content, MAC: user_cache().mac(PURPOSE, os.fsencode(folder), b"\0", text)}


def is_own_mark(folder: Path, mark: Mapping[str, Any]) -> bool:
    """Whether a process of this user wrote the mark for this folder: anybody can write the rest of a mark."""
    return hmac.compare_digest(str(mark.get(MAC)).encode(), str(signed_mark(folder, mark)[MAC]).encode())


def _holds_link(folder: Path) -> bool:
    entries = ((parent, name) for parent, folders, files in os.walk(folder) for name in (*folders, *files))
    return any(os.path.islink(os.path.join(*entry)) for entry in entries)


def marked_folders(parent: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The folders of this kind in `parent`, with their marks. Raises OSError.

    A folder that holds a link isn't one of them: no link is ever made in it, and one could lead anywhere.
    """
    folders = [parent / name for name in sorted(os.listdir(parent)) if name.startswith(PREFIX)]
    marks = [(folder, mark) for folder in folders if (mark := read_mark(folder)) is not None]
    return [(folder, mark) for folder, mark in marks if not _holds_link(folder)]


def unfinished_folders(target: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Those of `marked_folders` whose work is for `target`, an absolute path without links. Raises OSError."""
    return [(folder, mark) for folder, mark in marked_folders(target.parent) if mark["target"] == target.as_uri()]


def unfinished_hint(path: Path) -> str:
    """The end of a message about a folder that is no bundle: what to do where it is unfinished, or nothing."""
    again = "run the same `omnigen2 export` or `quantize` again to finish it"
    try:
        folder = path.resolve()
        if any(read_mark(each) is not None for each in (folder, folder.parent)):
            return f": it is an unfinished bundle; {again}"
        found = [] if folder.exists() else [each for each, _ in unfinished_folders(folder)]
    except (OSError, RuntimeError):  # it can't be read, or is a loop of links
        return ""
    for each in found:
        if (each / OLD).is_dir():
            return f": it was being replaced when that was stopped; {again}, or rename {each.name}/{OLD} back"
    return f": it is unfinished, in {found[0].name} beside it; {again}" if found else ""
