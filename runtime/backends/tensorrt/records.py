"""The record of an engine: a file beside its plan, with everything that went into it.

An engine is a program, and its library runs it. Its record may come from anywhere, so it is read field by field, and what it
states lets nothing run: that is for the user's MAC in it (the engine was built or trusted here) or for the caller.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...errors import BackendError
from ...files.json_text import parse_object
from ...files.reading import read_bytes
from ...files.user_cache import user_cache
from ..cache_keys import Key, digest

FOLDER = "engines"
PURPOSE = "TensorRT engine"
ENGINE_NAME = re.compile(r"(?P<component>[a-z0-9_]+)\.(?P<precision>fp32|fp16|bf16)\.[0-9a-f]{16}")
MAX_RECORD_BYTES = 2**20
HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")
"""TensorRT's levels, in lower case."""
ROPES = ("plugin", "native")
LIBRARIES = ("tensorrt", "tensorrt-rtx")
TARGETS = ("portable", "sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""The GPUs that TensorRT for RTX builds for, by compute capability; "portable" is one engine for all from 8.0 on."""

Check = Callable[[Any], bool]


def _is(*types: type | None) -> Check:
    """Whether a value is of one of the types, None being its own; a bool is no int."""
    return lambda value: (value is None and None in types) or type(value) in types


def _are_profiles(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(profile, dict)
        and profile.keys() == {"name", "shapes"}
        and isinstance(profile["name"], str)
        and isinstance(profile["shapes"], dict)
        and all(_is_range(shapes) for shapes in profile["shapes"].values())
        for profile in value
    )


def _is_report(value: Any) -> bool:
    """Whether a value is a build's figures, whose notes are texts."""
    notes = value.get("notes", []) if isinstance(value, dict) else None
    return isinstance(notes, list) and all(isinstance(note, str) for note in notes)


def _is_range(value: Any) -> bool:
    """Whether a value is an input's smallest, typical and largest shape."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    return all(isinstance(shape, list) and all(type(size) is int for size in shape) for shape in value)


OPTIONS: Mapping[str, Check] = {
    "optimization_level": lambda value: type(value) is int and value in range(6),
    "workspace_bytes": _is(int, None),
    "weight_streaming": _is(bool),
    "strip_plan": _is(bool),
    "version_compatible": _is(bool),
    "hardware_compatibility": lambda value: value in HARDWARE_COMPATIBILITY,
    "decomposable_attention": _is(bool),
    "target": lambda value: value is None or value in TARGETS,
}
"""The options of a build, each with its check."""
KEY: Mapping[str, Check] = {
    "format": _is(int),
    "library": lambda value: value in LIBRARIES,
    **dict.fromkeys(("component", "precision", "graph", "weights", "tensorrt"), _is(str)),
    "rope": lambda value: value in ROPES,
    **dict.fromkeys(("gpu", "compute_capability", "driver", "plugin", "triton"), _is(str, None)),
    "profiles": _are_profiles,
    "options": _is(dict),
}
"""The parts of an engine's key, each with its check."""


@dataclass(frozen=True, kw_only=True)
class EngineRecord:
    """A built engine.

    key: what it was built from.
    plan: its file's name.
    size_bytes, sha256: the file's.
    report: the build's figures.
    mac: the MAC of all this with the secret of the user who built it or who trusts it; empty: of none.
    """

    key: Key
    plan: str
    size_bytes: int
    sha256: str
    report: dict[str, Any]
    mac: str = ""

    @property
    def name(self) -> str:
        """The plan's name without its ending: component, precision and the key's digest."""
        return self.plan.removesuffix(".plan")

    def signed(self) -> EngineRecord:
        """The record with this user's MAC."""
        return replace(self, mac=self._mac())

    def is_own(self) -> bool:
        """Whether this user built the engine or trusts it."""
        return hmac.compare_digest(self.mac.encode(), self._mac().encode())

    def _mac(self) -> str:
        stated = json.dumps(asdict(replace(self, mac="")), sort_keys=True, separators=(",", ":"))
        return user_cache().mac(PURPOSE, stated.encode())


RECORD: Mapping[str, Check] = {
    "key": _is(dict), "plan": _is(str), "size_bytes": _is(int), "sha256": _is(str), "report": _is_report, "mac": _is(str),
}  # fmt: skip


def engine_name(key: Key) -> str:
    """The name of the engine's files, without ending. Raises BackendError for a key whose component can't be a file's name."""
    name = f"{key['component']}.{key['precision']}.{digest(key)}"
    if not ENGINE_NAME.fullmatch(name):
        raise BackendError(f"{name!r} can't be an engine's name: a component has lower-case letters, digits and _ only")
    return name


def engine_folder(bundle: Path) -> Path:
    """The folder of a bundle's engines, which may be missing. Raises BackendError where it is a link: it could lead anywhere."""
    folder = bundle / FOLDER
    if folder.is_symlink() or getattr(os.path, "isjunction", lambda path: False)(folder):
        raise BackendError(f"{str(folder)!r} is a link, and engines are kept in the bundle itself: put a folder in its place")
    return folder


def regular_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """The regular files of a folder by name, and no links; none where the folder is missing."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            state = path.lstat()
        except FileNotFoundError:  # another process removed it
            continue
        if stat.S_ISREG(state.st_mode):
            yield path, state


def read_records(
    bundle: Path, component: str | None = None, precision: str | None = None
) -> tuple[list[EngineRecord], list[str]]:
    """The records in a bundle, newest first, and why other files of such a name are none.

    component, precision: only these engines. Raises BackendError where the folder is a link.
    """
    records, problems = [], []
    for path, state in regular_files(engine_folder(bundle)):
        name = ENGINE_NAME.fullmatch(path.stem)
        if path.suffix != ".json" or name is None:
            continue
        if name["component"] != (component or name["component"]) or name["precision"] != (precision or name["precision"]):
            continue
        try:
            records.append((state.st_mtime_ns, read_record(path)))
        except (OSError, ValueError) as error:
            problems.append(f"{path.name} {getattr(error, 'strerror', None) or error}")
    return [record for _, record in sorted(records, key=lambda dated: -dated[0])], problems


def read_record(path: Path) -> EngineRecord:
    """The record in a file. Raises OSError, and ValueError with what is wrong, to go after the file's name."""
    stated = parse_object(read_bytes(path, MAX_RECORD_BYTES))
    _check(stated, RECORD, "")
    _check(stated["key"], KEY, "key.")
    _check(stated["key"]["options"], OPTIONS, "key.options.")
    record = EngineRecord(**stated)
    if not record.plan == f"{path.stem}.plan" == f"{_name_of(record.key)}.plan":
        raise ValueError("is not the record of the key that it states")
    return record


def _name_of(key: Key) -> str | None:
    try:
        return engine_name(key)
    except BackendError:
        return None


def _check(stated: dict[str, Any], allowed: Mapping[str, Check], where: str) -> None:
    """Raises ValueError for an entry that is missing, unknown or has a value that isn't allowed."""
    if wrong := sorted(stated.keys() ^ allowed.keys()):
        raise ValueError(f"lacks {where}{wrong[0]}" if wrong[0] in allowed else f"holds {where}{wrong[0]}, which is unknown")
    for name, is_allowed in allowed.items():
        if not is_allowed(stated[name]):
            raise ValueError(f"has {where}{name} {str(stated[name])[:40]!r}, which is not allowed")
