"""Bundles on disk as ComfyUI's users choose them: nano, the names of folders below its `models/omnigen2`, or any folder.

Opens none. Knows of a bundle only that it has a manifest.
"""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from omnigen2_rt import BundleError
from omnigen2_rt.runtime.files.hashes import file_hash
from omnigen2_rt.runtime.manifest import MANIFEST
from omnigen2_rt.runtime.pipeline import bundle_path

MODEL_FOLDER = "omnigen2"
"""The folder below ComfyUI's `models`, and the name of its entry in `extra_model_paths.yaml`."""
NANO = "nano"


def register_folder() -> None:
    """Make `models/omnigen2` one of the folders in which bundles are looked for."""
    folder_paths.add_model_folder_path(MODEL_FOLDER, os.path.join(folder_paths.models_dir, MODEL_FOLDER))


def bundle_names() -> list[str]:
    """The names to choose from: nano, then the folders in `models/omnigen2` that hold a manifest."""
    return [NANO, *sorted(_installed())]


def bundle_folder(name: str, folder: str = "") -> Path:
    """The folder of a bundle. folder: takes the place of the name unless it is blank. Raises BundleError for what isn't there."""
    if folder.strip():
        path = Path(folder.strip()).expanduser()
        if not path.is_absolute():
            raise BundleError(f"folder {folder!r} is not an absolute path; name bundles below models/{MODEL_FOLDER} in `bundle`")
        return bundle_path(path)
    if name == NANO:
        return bundle_path(NANO)
    installed = _installed()
    if name not in installed:
        raise BundleError(f"bundle {name!r} is not in models/{MODEL_FOLDER}; it has {', '.join(bundle_names())}")
    return installed[name]


def content_digest(folder: Path) -> str:
    """A digest of a bundle's content: of its manifest, which holds the hashes of all other files.

    Raises BundleError where there is none.
    """
    try:
        return file_hash(folder / MANIFEST)
    except OSError as error:
        raise BundleError(f"{str(folder)!r} is not a bundle: {MANIFEST} {error.strerror or error}") from error


def _installed() -> dict[str, Path]:
    """The bundles in `models/omnigen2` by name. Of two with one name the first counts."""
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(MODEL_FOLDER)):
        children = root.iterdir() if root.is_dir() else ()
        for child in children:
            if child.name != NANO and (child / MANIFEST).is_file():
                found.setdefault(child.name, child)
    return found
