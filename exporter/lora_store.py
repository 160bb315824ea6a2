"""The folder of a bundle's merged bundles: chooses it, lists what lies there, and removes it.

A merged bundle's folder is named by its key, a hash of everything that decides its content. Only folders that prove to be merged
bundles are listed or removed: their manifest gives the key that they are named by, and they hold no other files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..runtime.bundle import MAX_MANIFEST_BYTES
from ..runtime.errors import BundleError, ExportError
from ..runtime.files.reading import read_bytes
from ..runtime.files.user_cache import user_cache
from ..runtime.manifest import MANIFEST, Manifest, MergedLora
from .bundle_writer import disk_errors
from .staging import remove_bundle, remove_unfinished
from .target import other_files

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


def store_folder(bundle: Path, folder: str | Path | None = None) -> Path:
    """The absolute path of the folder for the bundle's merged bundles, which may be missing.

    folder: the user's choice; by default BUNDLE.loras beside the bundle. Where that can't be made, and for a bundle in this
    package or in a hub's cache, it is a folder in the user's cache. Raises ExportError where there is none either.
    """
    if folder is not None:
        return Path(os.path.realpath(folder))
    real = Path(os.path.realpath(bundle))
    beside = real.with_name(f"{real.name}{BESIDE}")
    is_of_the_user = PACKAGE not in real.parents and not (bundle / MANIFEST).is_symlink()
    if beside.is_dir() or (is_of_the_user and os.access(real.parent, os.W_OK | os.X_OK)):
        return Path(os.path.realpath(beside))
    cache = user_cache()
    if cache.problem is not None:
        raise ExportError(f"merged bundles can't lie beside {str(bundle)!r}, and {cache.problem}: name a folder with --lora-dir")
    return cache.folder / IN_CACHE / f"{real.name}-{hashlib.sha256(os.fsencode(real)).hexdigest()[:16]}"


@dataclass(frozen=True, kw_only=True)
class StoredBundle:
    """A merged bundle.

    size_bytes: of the files that are not links to another bundle's: the space that its removal frees.
    """

    path: Path
    loras: tuple[MergedLora, ...]
    merged_from: str
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Removal:
    """The outcome of `remove_stored`.

    kept: merged bundles that were left, each with a file in it that isn't part of it.
    """

    removed: tuple[StoredBundle, ...]
    kept: dict[Path, str]


def stored_bundles(store: Path) -> list[StoredBundle]:
    """The merged bundles in a store, by name. Raises ExportError where it can't be read."""
    with disk_errors(store):
        names = sorted(os.listdir(store)) if store.is_dir() else []
    stored = [_stored(store / name) for name in names if KEY.fullmatch(name)]
    return [bundle for bundle in stored if bundle is not None]


def remove_stored(store: Path) -> Removal:
    """Remove the merged bundles in a store, their engines too, and the remains of killed processes. Raises ExportError.

    A bundle that holds a file which is not its own, or a link, is left as it is.
    """
    removed, kept = [], {}
    for bundle in stored_bundles(store):
        manifest = _manifest(bundle.path)
        foreign = next(other_files(bundle.path, manifest), None) if manifest is not None else MANIFEST
        if foreign is not None:
            kept[bundle.path] = foreign
            continue
        with disk_errors(bundle.path):
            remove_bundle(bundle.path)
        removed.append(bundle)
    tidy(store)
    with suppress(OSError):  # it holds something
        store.rmdir()
    return Removal(removed=tuple(removed), kept=kept)


def tidy(store: Path) -> None:
    """Remove the remains of killed processes from a store."""
    remove_unfinished(store, (WORK, "removal"))


def _stored(folder: Path) -> StoredBundle | None:
    manifest = _manifest(folder)
    if manifest is None or manifest.merged_from is None:
        return None
    if merge_key(manifest.merged_from, manifest.loras) != folder.name:
        return None
    size = sum(state.st_size for state in map(os.lstat, _files(folder)) if state.st_nlink == 1)
    return StoredBundle(path=folder, loras=manifest.loras, merged_from=manifest.merged_from, size_bytes=size)


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
