"""Checks the folder that a new bundle is to become: before the long work, and again before it gets its name.

Knows nothing of how a bundle is written.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ..runtime.backends.tensorrt.records import ENGINE_NAME
from ..runtime.backends.tensorrt.records import FOLDER as ENGINES
from ..runtime.errors import BundleError, ExportError
from ..runtime.files.hashes import file_hash
from ..runtime.files.json_text import MAX_JSON_BYTES
from ..runtime.files.reading import read_bytes
from ..runtime.files.unfinished import LOCK, MARK, NEW, OLD, PREFIX, PROGRESS, REPLACING
from ..runtime.files.writing import PARTIAL_NAME
from ..runtime.manifest import MANIFEST, Manifest

OURS = re.compile(
    rf"(?:.*/)?{PARTIAL_NAME.pattern}"
    rf"|{ENGINES}/(?P<dot>\.)?{ENGINE_NAME.pattern}\.(?(dot)lock|(?:plan|json|[0-9a-f]{{16}}\.kernels))"
    r"|compiled/[a-z0-9_]+\.\w+\.[0-9a-f]{16}\.blob"
)
"""The files that this package puts beside a bundle's own: temporary ones, engines, and an earlier release's compiled models."""


UNFINISHED = re.compile(
    rf"(?:{MARK}|{LOCK}|{PROGRESS}|{REPLACING}|{PARTIAL_NAME.pattern})"
    rf"|(?:{NEW}|{OLD}|{PARTIAL_NAME.pattern})/(?:{OURS.pattern}|(?:[^/]+/)?[^/]+\.(?:onnx|safetensors)"
    rf"|{re.escape(MANIFEST)}|processor/tokenizer\.json|calibration\.txt|quantization\.json)"
)
"""The files in a folder of unfinished work. Any other file in one is somebody's own."""


def resolve_target(bundle: str | Path) -> Path:
    """The absolute path of the folder to make. Links are resolved: what points at a bundle points at the new one afterwards.

    Raises ExportError where the system takes no such path.
    """
    try:
        target = Path(bundle).resolve()
        with suppress(FileNotFoundError):
            target.lstat()
    except (OSError, RuntimeError, TypeError, ValueError) as error:  # RuntimeError: a loop of links; ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise ExportError(f"{str(bundle)!r} can't be made: {reason}: choose another name") from None
    return target


def check_target(target: Path, force: bool | None) -> None:
    """Raises ExportError where the target exists, unless it is a bundle that may be replaced.

    force: whether it may; None: that isn't offered.
    """
    if not os.path.lexists(target):
        return
    if not force:
        offer = "" if force is None else ", or replace it with --force"
        raise ExportError(f"{str(target)!r} exists: choose another name{offer}")
    try:
        text = read_bytes(target / MANIFEST, MAX_JSON_BYTES).decode()
        manifest = Manifest.from_json(text, MANIFEST)
    except (OSError, UnicodeDecodeError, BundleError) as error:
        reason = "" if isinstance(error, OSError) else f" ({error})"
        raise ExportError(f"{str(target)!r} exists and is not a bundle, so --force won't replace it{reason}") from error
    if not os.access(target, os.W_OK):
        raise ExportError(f"{str(target)!r} is write-protected, so --force won't replace it")
    for name in other_files(target, manifest):
        raise ExportError(f"{str(target)!r} holds {name!r}, which is not part of that bundle: move it away, then use --force")


def check_not_read(folder: Path, reads: Iterable[Path]) -> None:
    """Raises ExportError where the folder, which is to go, is one of the files and folders that are read, or holds one."""
    for source in reads:
        real = source.resolve()
        if folder.exists() and any(folder.samefile(each) for each in (real, *real.parents)):
            raise ExportError(f"{str(folder)!r} holds {str(source)!r}, which is read: choose another name")


def check_replaceable(target: Path, reads: Iterable[Path]) -> None:
    """Raises ExportError where an existing target holds what is read, or lies in it."""
    check_not_read(target, reads)
    for source in reads:
        if target.exists() and any(source.samefile(each) for each in target.parents):
            raise ExportError(f"{str(target)!r} lies in {str(source)!r}, which is read: choose another name")


def check_writable(target: Path) -> None:
    """Raises ExportError where no folder can be made beside the target."""
    folder = next(folder for folder in target.parents if os.path.exists(folder))
    probe = folder / f"{PREFIX}{secrets.token_hex(16)}"
    try:
        probe.mkdir(0o700)
        with suppress(FileNotFoundError):  # another process may tidy it away
            probe.rmdir()
    except OSError as error:
        raise ExportError(f"can't write to {str(folder)!r}: {error.strerror or error}: choose another folder") from error


def other_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    """The files in a bundle's folder that neither its manifest lists nor this package puts there."""
    graphs = {name for graph in manifest.graphs for name in (graph.file, graph.inlined)}
    listed = {MANIFEST, manifest.tokenizer, *graphs, *(spec.file for spec in manifest.files)}
    return (name for name in _files(folder) if name not in listed and OURS.fullmatch(name) is None)


def other_unfinished_files(folder: Path) -> Iterator[str]:
    """The files in a folder of unfinished work that this package doesn't write there."""
    listed = set[str]()
    for each in folder.iterdir():
        with suppress(OSError, BundleError):
            manifest = Manifest.from_json(read_bytes(each / MANIFEST, MAX_JSON_BYTES).decode(errors="replace"), MANIFEST)
            listed |= {f"{each.name}/{spec.file}" for spec in manifest.files}
    return (name for name in _files(folder) if name not in listed and UNFINISHED.fullmatch(name) is None)


def replaced_file(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """A file of a bundle that somebody replaced since the bundle was written, or None. hashes: by the file's name.

    A file is read only where it changed after the manifest, which is written last, and where no other link keeps its content.
    """
    written = _changed_ns(folder / MANIFEST)
    for name, digest in hashes.items():
        path = folder / name
        if path.exists() and path.stat().st_nlink == 1 and _changed_ns(path) > written and file_hash(path) != digest:
            return name
    return None


def _changed_ns(path: Path) -> int:
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


def _files(folder: Path) -> Iterator[str]:
    """The names of the files and the links below a folder."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*files, *links):
            yield (Path(parent) / name).relative_to(folder).as_posix()
