"""The folders of a bundle's merged bundles: chooses them, lists what lies there, and removes it.

A merged bundle's folder is named by its key, a hash of everything that decides its content. Only folders that prove to be merged
bundles are listed or removed: their manifest gives the key that they are named by, and they hold no other files. In a folder that
the user chose, merged bundles of other bundles may lie as well: there the hash of the bundle's manifest tells which are its own.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..runtime.bundle import MAX_MANIFEST_BYTES, Bundle
from ..runtime.errors import BackendError, BundleError, ExportError
from ..runtime.files.hashes import file_hash
from ..runtime.files.reading import read_bytes
from ..runtime.files.user_cache import user_cache
from ..runtime.manifest import MANIFEST, Manifest, MergedLora
from .engines.engine_store import is_being_built
from .staging import remove_bundle, remove_unfinished
from .target import other_files, replaced_file

FORMAT = 1
"""Changes with what is written for the same LoRAs and bundle."""
KEY = re.compile("[0-9a-f]{32}")
BESIDE = ".loras"
IN_CACHE = "loras"
WORK = "merge"
PACKAGE = Path(__file__).resolve().parents[1]


def merge_key(base: str, loras: Sequence[MergedLora]) -> str:
    """The name of the bundle with these LoRAs. base: the hash of the manifest of the bundle that they are merged into."""
    contents = [[lora.sha256, lora.settings_sha256, lora.scale] for lora in loras]
    return hashlib.sha256(json.dumps([FORMAT, base, contents]).encode()).hexdigest()[:32]


def store_folders(bundle: Path, folder: str | Path | None = None) -> tuple[Path, ...]:
    """The absolute paths of the folders of the bundle's merged bundles, which may be missing. New ones are made in the last.

    folder: the user's choice; by default BUNDLE.loras beside the bundle. Where that can't be written, and for a bundle in this
    package or in a hub's cache, a folder in the user's cache follows. Where BUNDLE.loras can be written again, what lies in the
    cache's folder is still found. Raises ExportError where there is no folder at all.
    """
    if folder is not None:
        return (Path(os.path.realpath(folder)),)
    real = Path(os.path.realpath(bundle))
    beside = Path(os.path.realpath(real.with_name(f"{real.name}{BESIDE}")))
    is_there, is_of_the_user = beside.is_dir(), PACKAGE not in real.parents and not (bundle / MANIFEST).is_symlink()
    cache = user_cache()
    cached = _cached(real)
    if os.access(beside if is_there else real.parent, os.W_OK | os.X_OK) and (is_there or is_of_the_user):
        return (cached, beside) if cache.problem is None and cached.is_dir() else (beside,)
    shared = (beside,) if is_there else ()
    if cache.problem is None:
        return (*shared, cached)
    if not shared:
        raise ExportError(f"merged bundles can't lie beside {str(bundle)!r}, and {cache.problem}: name a folder with --lora-dir")
    return shared


def _cached(bundle: Path) -> Path:
    """The folder in the user's cache for the merged bundles of a bundle, given by its real path."""
    return user_cache().folder / IN_CACHE / f"{bundle.name}-{hashlib.sha256(os.fsencode(bundle)).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class StoredBundle:
    """A merged bundle.

    sha256: of its manifest.
    merged_from: that of the bundle which the LoRAs were merged into.
    size_bytes: of the files that are not links to another bundle's: the space that its removal frees.
    """

    path: Path
    sha256: str
    loras: tuple[MergedLora, ...]
    merged_from: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Removal:
    """The outcome of `remove_stored`.

    kept: why merged bundles and folders of unfinished work were left.
    """

    removed: tuple[StoredBundle, ...]
    kept: dict[Path, str]


def stored_bundles(bundle: Path, folder: str | Path | None = None) -> list[StoredBundle]:
    """The bundles that were merged from a bundle, and those that were merged from these. folder: see `store_folders`.

    In the bundle's own folders they are all, also those of the bundle as it was before. Raises ExportError for a folder that
    can't be read, and BundleError where the bundle must be known and there is none.
    """
    own = store_folders(bundle) if folder is None else ()
    found = [stored for store in own for stored in _in_store(store)]
    if folder is not None:
        (store,) = store_folders(bundle, folder)
        found = list(_in_store(store))
        if store != Path(f"{os.path.realpath(bundle)}{BESIDE}"):
            found = _made_from(_manifest_hash(bundle), found)
    elif not any(store.is_dir() for store in own):
        _manifest_hash(bundle)
    return found


def remove_stored(bundle: Path, folder: str | Path | None = None) -> Removal:
    """Remove the bundles that `stored_bundles` finds, their engines too, and what killed processes left. Raises as that does.

    Left are bundles that hold a file which is not their own, or a link, that are in use, or that can't be removed.
    """
    removed: list[StoredBundle] = []
    kept: dict[Path, str] = {}
    bases: set[str] = set()
    for stored in sorted(stored_bundles(bundle, folder), key=lambda stored: -len(stored.loras)):  # what was merged further first
        try:
            problem = "another one that stays was merged from it" if stored.sha256 in bases else _problem(stored)
        except FileNotFoundError:  # another process removed it
            continue
        if problem is None:
            removed.append(stored)
        else:
            kept[stored.path] = problem
            bases.add(stored.merged_from)
    stores = store_folders(bundle, folder)
    unfinished = [each for store in stores for nested in _with_nested(store) for each in tidy(nested).items()]
    kept |= {path: problem for path, problem in unfinished if problem is not None}
    emptied = {each.path.parent for each in removed} | {path.parent for path, _ in unfinished}
    _remove_empty(emptied, () if folder is not None else stores)
    return Removal(removed=tuple(removed), kept=kept)


def tidy(store: Path) -> dict[Path, str | None]:
    """Remove what killed processes left in a store. Returns its folders, each with the reason why it stays, or None."""
    return remove_unfinished(store, (WORK, "removal"))


def _problem(stored: StoredBundle) -> str | None:
    """Remove a merged bundle; or the reason why it stays. Raises FileNotFoundError where it is gone."""
    try:
        remove_bundle(stored.path, lambda: _check_removable(stored.path))
    except ExportError as error:
        return str(error)
    except FileNotFoundError:
        if not stored.path.exists():
            raise
        return "it changes meanwhile"
    except (OSError, BackendError) as error:
        return f"it can't be removed: {getattr(error, 'strerror', None) or error}"
    return None


def _check_removable(folder: Path) -> None:
    """Raises ExportError where a merged bundle holds what isn't its own, or an engine of it is being built."""
    manifest = _manifest(folder)
    if not folder.exists():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    if manifest is None:
        raise ExportError("its manifest isn't that of a merged bundle any more")
    foreign = next(other_files(folder, manifest), None)
    if foreign is not None:
        raise ExportError(f"it holds {foreign!r}, which isn't part of it")
    if (replaced := replaced_file(folder, Bundle(folder, manifest).hashes)) is not None:
        raise ExportError(f"its file {replaced!r} was replaced by another one")
    if is_being_built(folder):
        raise ExportError("it is in use")


def _remove_empty(folders: set[Path], own: Sequence[Path]) -> None:
    """Remove folders of merged bundles that are empty now, and were made by merging: a folder that the user chose stays."""
    for folder in sorted(folders, key=lambda folder: -len(folder.parts)):
        if folder in own or _is_nested(folder):
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _manifest_hash(bundle: Path) -> str:
    try:
        return file_hash(bundle / MANIFEST)
    except OSError as error:
        raise BundleError(f"{str(bundle)!r} is not a bundle: {MANIFEST}: {error.strerror or error}") from error


def _made_from(base: str, stored: Sequence[StoredBundle]) -> list[StoredBundle]:
    """Those that were merged from the bundle of that manifest, at first hand or further."""
    known: set[str] = set()
    added = {base}
    while added:
        known |= added
        added = {each.sha256 for each in stored if each.merged_from in known} - known
    return [each for each in stored if each.merged_from in known]


def _in_store(store: Path) -> Iterator[StoredBundle]:
    """The merged bundles in a store, and in the stores that lie beside these. Raises ExportError where one can't be read."""
    for folder in _with_nested(store):
        for name in _names(folder):
            if KEY.fullmatch(name) and (stored := _stored(folder / name)) is not None:
                yield stored


def _with_nested(store: Path) -> Iterator[Path]:
    """A store, and the stores of its own merged bundles, which lie in it or in the user's cache."""
    yield store
    for name in _names(store):
        if _is_nested(store / name) and not os.path.islink(store / name):
            yield from _with_nested(store / name)
        if KEY.fullmatch(name) and (cached := _cached(Path(os.path.realpath(store / name)))).is_dir():
            yield from _with_nested(cached)


def _is_nested(folder: Path) -> bool:
    """Whether a folder has the name of a merged bundle's own store."""
    if folder.parent == user_cache().folder / IN_CACHE:
        return True
    return folder.name.endswith(BESIDE) and KEY.fullmatch(folder.name.removesuffix(BESIDE)) is not None


def _names(store: Path) -> list[str]:
    try:
        return sorted(os.listdir(store))
    except (FileNotFoundError, NotADirectoryError):  # another process may have removed it
        return []
    except OSError as error:
        raise ExportError(f"{str(store)!r} can't be read: {error.strerror or error}") from error


def _stored(folder: Path) -> StoredBundle | None:
    manifest = _manifest(folder)
    if manifest is None or manifest.merged_from is None:
        return None
    if merge_key(manifest.merged_from, manifest.loras) != folder.name:
        return None
    try:
        states = [*map(os.lstat, _files(folder))]
        sha256 = file_hash(folder / MANIFEST)
    except FileNotFoundError:  # another process removes it
        return None
    return StoredBundle(
        path=folder,
        sha256=sha256,
        loras=manifest.loras,
        merged_from=manifest.merged_from,
        size_bytes=sum(state.st_size for state in states if state.st_nlink == 1),
    )


def _manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder of this process's user; None where it has none, or where the folder or the file is a link."""
    file = folder / MANIFEST
    try:
        is_own = not hasattr(os, "geteuid") or folder.lstat().st_uid == os.geteuid()
        if not is_own or os.path.islink(folder) or os.path.islink(file):
            return None
        return Manifest.from_json(read_bytes(file, MAX_MANIFEST_BYTES), str(file))
    except (OSError, BundleError):
        return None


def _files(folder: Path) -> list[str]:
    return [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names]
