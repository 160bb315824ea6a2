"""Draws a row's pictures into the bytes of their files, and recognises them in an output."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from io import BufferedReader, BytesIO
from typing import Any

from ..evaluation.endpoint import EndpointError, EndpointUnusable
from ..rewriting.kept_rewrites import KeptRewriter
from ..rewriting.rewriter import Rewriter
from ..runtime.errors import OmniGen2Error, RequestError, one_line
from ..runtime.files.json_text import parse_object
from ..runtime.images.png import JSON_CHUNK, encode_png
from ..runtime.images.png_chunks import SIGNATURE, is_whole, read_text
from ..runtime.parameters import drawing_parameters
from ..runtime.pipeline import Pipeline
from .manifest import Manifest
from .outputs import Output
from .rows import Job

DIGEST = "row_digest"
"""The parameter of a picture's file that tells the row it was drawn from."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """The outcome of drawing a row.

    pictures: the content of each file; empty after an error.
    parameters: the drawing's parameters, as each file keeps them.
    seconds: the time it took.
    cut_tokens: see `Result.cut_tokens`.
    error: the reason why there are no pictures, or None.
    """

    pictures: tuple[bytes, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    seconds: float
    cut_tokens: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None


def draw(pipeline: Pipeline, bundle: str, job: Job, rewriter: Rewriter | KeptRewriter | None = None) -> Drawn:
    """Draw a row. An error is returned, not raised; after one of the engine, the engine is opened anew for the next row.

    bundle: its name, for the pictures' files. rewriter: rewrites the prompt first. Raises EndpointUnusable where it can't rewrite
    any prompt.
    """
    started = time.perf_counter()
    try:
        request, rewritten = job.request, dict[str, Any]()
        if rewriter is not None:
            rewrite = rewriter.rewrite(request.prompt, len(request.images))
            request, rewritten = replace(request, prompt=rewrite.prompt), rewrite.parameters
        result = pipeline.generate(request)
        named = drawing_parameters(request, latents=job.latents, bundle=bundle, pipeline=pipeline)
        parameters = {**named, **rewritten, DIGEST: job.digest}
        pictures = tuple(encode_png(image, {**parameters, "index": k}) for k, image in enumerate(result.images))
    except EndpointUnusable:
        raise
    except Exception as error:  # whatever is wrong with one row doesn't stop the others
        if not isinstance(error, RequestError | EndpointError):
            pipeline.close()
        return Drawn(seconds=time.perf_counter() - started, error=_message(error))
    seconds = time.perf_counter() - started
    return Drawn(pictures=pictures, parameters=parameters, seconds=seconds, cut_tokens=result.cut_tokens)


def _message(error: Exception) -> str:
    if isinstance(error, OmniGen2Error):
        return str(error)
    return one_line(f"{type(error).__name__}: {error}")


class State(Enum):
    """The state of a file that belongs to a row.

    MISSING: there is none.
    DRAWN: it is the row's picture, and whole.
    OLD: it is a picture of a batch, drawn from another row, or damaged.
    FOREIGN: it is something else, or a picture of a batch that somebody changed since.
    """

    MISSING = "missing"
    DRAWN = "drawn"
    OLD = "old"
    FOREIGN = "foreign"


def state_of(output: Output, manifest: Manifest, name: str, job: Job) -> State:
    """The state of a file that belongs to a row. Raises RequestError."""
    known, digest = manifest.known(job.id), job.digest
    size = output.size(name)
    if size is None:
        return State.MISSING
    is_listed = known is not None and name in known.sizes
    if output.keeps_whole and known is not None and known.digest == digest and known.sizes.get(name) == size:
        return State.DRAWN
    content = output.read(name) or b""
    found = stored_digest(content)
    if found == digest and is_whole(content):
        return State.DRAWN
    if found is not None and is_whole(content) and not manifest.is_as_written(name, found, size):
        return State.FOREIGN  # an editor kept the text
    is_ours = found is not None or (is_listed and _is_damaged_png(content))
    return State.OLD if is_ours else State.FOREIGN


def _is_damaged_png(content: bytes) -> bool:
    """Whether the file is a PNG file that lost bytes. A whole one without a digest is somebody's own."""
    return SIGNATURE.startswith(content[: len(SIGNATURE)]) and not is_whole(content)


def stored_digest(content: bytes) -> str | None:
    """The digest of the row that a picture's file was drawn from; None for any other file."""
    found = stored_parameters(content).get(DIGEST)
    return found if isinstance(found, str) else None


def stored_parameters(content: bytes) -> dict[str, Any]:
    """The parameters that a picture's file keeps; empty for any other file."""
    try:
        text = read_text(BufferedReader(BytesIO(content)), JSON_CHUNK)
        return {} if text is None else parse_object(text)
    except (RequestError, ValueError):
        return {}
