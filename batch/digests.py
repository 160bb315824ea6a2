"""Digests that tell whether a row was drawn before: of its request with the content of its input files, and of the bundle.

The backend and the precision are left out: a picture of another machine counts.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from functools import lru_cache
from pathlib import Path

from ..runtime.bundle import Bundle
from ..runtime.errors import BundleError, RequestError
from ..runtime.files.hashes import file_hash
from ..runtime.files.json_text import json_hash
from ..runtime.manifest import MANIFEST
from ..runtime.pipeline import bundle_path
from ..runtime.request import Request

DIGEST_FORMAT = 1
_REMEMBERED_HASHES = 4096


def bundle_digest(bundle: str) -> str:
    """SHA-256 of a bundle's manifest, which states the hash of every file. Raises BundleError where it can't be opened."""
    return file_hash(Bundle.open(bundle_path(bundle)).path / MANIFEST)


def check_same_bundle(bundle: str, digest: str) -> None:
    """Raises BundleError where a bundle's manifest hasn't that digest any more."""
    try:
        is_same = file_hash(bundle_path(bundle) / MANIFEST) == digest
    except OSError:
        is_same = False
    if not is_same:
        raise BundleError(f"the bundle {bundle!r} was replaced while the batch ran: run the same command again")


def row_digest(request: Request, bundle: str) -> str:
    """SHA-256 of everything that decides a request's pictures, hexadecimal.

    bundle: its digest. Raises RequestError for an input image that can't be read.
    """
    fields = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    fields["images"] = [_content_hash(Path(str(image))) for image in request.images]
    if request.latents is not None:
        content = hashlib.sha256(request.latents.tobytes()).hexdigest()
        fields["latents"] = [request.latents.shape, content]
    facts = {"format": DIGEST_FORMAT, "bundle": bundle, **fields}
    return json_hash(facts, repr)


def _content_hash(path: Path) -> str:
    try:
        status = os.stat(path)
        return _hash(path, status.st_size, status.st_mtime_ns)
    except FileNotFoundError as error:
        raise RequestError(f"image file {str(path)!r} does not exist") from error
    except (OSError, ValueError) as error:
        raise RequestError(f"image file {str(path)!r} cannot be read: {getattr(error, 'strerror', None) or error}") from error


@lru_cache(maxsize=_REMEMBERED_HASHES)
def _hash(path: Path, size_bytes: int, changed_ns: int) -> str:
    """A file's hash. A picture that many rows take is read once."""
    return file_hash(path)
