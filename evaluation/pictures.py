"""Pictures of samples: drawn by a pipeline into files, each once, and prepared for a judge.

A picture's file carries its parameters and a digest of all that decides it, so a later run draws again only what changed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime.errors import RequestError
from ..runtime.files.hashes import file_hash
from ..runtime.files.json_text import json_hash
from ..runtime.files.reading import open_regular
from ..runtime.images.loading import load_image
from ..runtime.images.pixels import reference_size, resize_lanczos
from ..runtime.images.png import read_parameters, save_png
from ..runtime.images.png_chunks import SIGNATURE, read_chunks
from ..runtime.manifest import MANIFEST
from ..runtime.parameters import drawing_parameters
from ..runtime.pipeline import Pipeline
from ..runtime.progress import Progress, no_progress
from ..runtime.request import Request
from .endpoint import jpeg_bytes
from .samples import Sample

DIGEST_FORMAT = 1
FULL_SET = "fullset"
JUDGED_PIXELS = 1024 * 1024
JUDGED_MULTIPLE = 16
LARGEST_SIDE_PX = 65_535


def picture_path(folder: Path, sample: Sample) -> Path:
    """The file of a sample's picture. folder: that of the model's results."""
    return folder / FULL_SET / f"{sample.name}.png"


def draw_samples(
    pipeline: Pipeline,
    samples: Sequence[Sample],
    fields: Mapping[str, Any],
    folder: Path,
    progress: Progress = no_progress,
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, str]:
    """Draw the pictures of samples that `folder` doesn't hold yet. Returns problems by sample name.

    fields: of each request, beside its prompt and images.
    note: called with a sentence for each damaged picture that is drawn again.
    Raises RequestError where a picture is there that this function didn't draw, or can't be written, and the engine's errors.
    """
    Request(prompt="", **fields)  # raises before anything is drawn
    bundle = file_hash(pipeline.bundle.path / MANIFEST)
    problems: dict[str, str] = {}
    for done, sample in enumerate(samples):
        progress(done, len(samples), f"pictures of {folder.name}")
        if sample.problem is None:
            try:
                _draw(pipeline, bundle, sample, fields, picture_path(folder, sample), note)
            except _NotDrawn as error:
                problems[sample.name] = str(error)
    progress(len(samples), len(samples), f"pictures of {folder.name}")
    return problems


class _NotDrawn(RequestError):
    """A sample can't be drawn; others can."""


def _draw(
    pipeline: Pipeline,
    bundle: str,
    sample: Sample,
    fields: Mapping[str, Any],
    path: Path,
    note: Callable[[str], object],
) -> None:
    """Draw a sample's picture, unless it is there. Raises _NotDrawn, and RequestError for a file that is in the way."""
    try:
        request = Request(prompt=sample.instruction, images=sample.inputs, **fields)
        digest = _digest(request, [file_hash(file) for file in sample.inputs], bundle, pipeline)
    except (RequestError, OSError) as error:
        raise _NotDrawn(str(error)) from error
    if path.exists() and _is_current(path, digest, note):
        return
    try:
        result = pipeline.generate(request)
    except RequestError as error:
        raise _NotDrawn(str(error)) from error
    parameters = drawing_parameters(request, latents=None, bundle=pipeline.bundle.path, pipeline=pipeline)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"can't write {str(path)!r}: {error.strerror or error}") from error
    save_png(result.images[0], path, {**parameters, "digest": digest})


def _is_current(path: Path, digest: str, note: Callable[[str], object]) -> bool:
    """Whether the file is the picture of that digest, undamaged. Raises RequestError where another program made the file."""
    stored = _stored_digest(path)
    if stored is not None and stored != digest:
        return False
    damage = _damage(path)
    if stored is None and (damage is None or not _is_cut_off(path)):
        raise RequestError(
            f"{str(path)!r} was not drawn by this command: take --no-draw to score it as it is, delete it, or take another --name"
        )
    if damage is not None:
        note(f"a damaged picture is drawn again: {damage}")
    return damage is None


def _stored_digest(path: Path) -> Any:
    """The digest that a picture carries, or None."""
    try:
        return read_parameters(path).get("digest")
    except RequestError:
        return None


def _damage(path: Path) -> str | None:
    """The reason why a picture can't be read, or None."""
    try:
        load_image(path)
    except RequestError as error:
        return str(error)
    return None


def _is_cut_off(path: Path) -> bool:
    """Whether the file is empty, begins with zeros, or is a PNG file without an end. Raises RequestError for no readable file."""
    try:
        with open_regular(path) as file:
            head = file.read(len(SIGNATURE))
            if head != SIGNATURE:
                return not head.strip(b"\0") or SIGNATURE.startswith(head)
            return all(chunk.kind != b"IEND" for chunk in read_chunks(file))
    except OSError as error:
        raise RequestError(f"{str(path)!r} can't be read: {error.strerror or error}") from error


def _digest(request: Request, images: Sequence[str], bundle: str, pipeline: Pipeline) -> str:
    """SHA-256 of all that decides a picture. images: hashes of the inputs. bundle: the hash of its manifest."""
    fields = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    engine = {"backend": pipeline.backend.name, "precision": pipeline.backend.precision}
    facts = {"format": DIGEST_FORMAT, **fields, "images": [*images], "bundle": bundle, **engine}
    return json_hash(facts, repr)


def judged_input(file: Path) -> bytes:
    """An input picture as the judge sees it: at most 1024² pixels, sides cut to multiples of 16, JPEG. Raises RequestError."""
    picture = load_image(file)
    size = reference_size(*picture.size, JUDGED_MULTIPLE, JUDGED_PIXELS, LARGEST_SIDE_PX)
    return jpeg_bytes(resize_lanczos(picture, size))


def judged_output(file: Path) -> bytes:
    """A drawn picture as the judge sees it: JPEG. Raises RequestError."""
    return jpeg_bytes(load_image(file))
