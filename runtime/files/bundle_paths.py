"""The files that a manifest may name: inside the bundle's folder, wherever its links lead.

A bundle may come from anywhere, so:
- a name is relative, with / between its parts; no part is empty, `.` or `..`, and none means something else on Windows;
- the folders on the way are real folders, not links: a link could lead a writer or a cleaner out of the bundle;
- the file itself may be a link to another file of the bundle, or into the folder `blobs` of a folder above it. That is how a
  hub's cache keeps a published bundle: `snapshots/<revision>/<name>` is a link to `blobs/<hash>`. It is only read through the
  link, never written or deleted, and what is read must match the manifest as any other file.
Knows nothing of manifests.
"""

from __future__ import annotations

import os
from pathlib import Path

LONGEST_NAME = 1000
LONGEST_PART = 255
"""A part's most bytes: what filesystems allow."""
BLOBS = "blobs"


class NameInside:
    """The rule of a manifest's file names, see `schema.Rule`. end: how a name must end."""

    def __init__(self, end: str = "") -> None:
        self._end = end

    def problem(self, value: str) -> str | None:
        """See `schema.Rule`."""
        if is_name_inside(value) and value.endswith(self._end):
            return None
        end = f" that ends in {self._end}" if self._end else ""
        shown = repr(value if len(value) <= 80 else f"{value[:60]}…{value[-20:]}")
        return f"is {shown}; allowed is a file's name inside the bundle{end}: relative, with / between its parts, without .."


def is_name_inside(name: str) -> bool:
    """Whether a name is one of a file below a folder, on every system."""
    if not name.isprintable() or "\\" in name or ":" in name or len(name) > LONGEST_NAME:
        return False
    return all(part and part[-1] not in ". " and len(part.encode()) <= LONGEST_PART for part in name.split("/"))


def link_problem(folder: Path, name: str) -> str | None:
    """Why a file's links are not followed, to go after its name; None where there is none or it stays inside.

    name: one that `is_name_inside` accepts.
    """
    path = folder
    for part in name.split("/")[:-1]:
        path /= part
        if _is_link(path):
            return f"lies in a folder that is a link: put the folder itself in place of {str(path)!r}"
    file = folder / name
    if not _is_link(file):
        return None
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(file))
    is_blob = target.parent.name == BLOBS and target.parent.parent in root.parents
    if is_blob or root in target.parents:
        return None
    return f"is a link to {str(target)!r}, outside the bundle: put the file itself in its place"


def _is_link(path: Path) -> bool:
    return os.path.islink(path) or bool(getattr(os.path, "isjunction", lambda path: False)(path))
