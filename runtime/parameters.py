"""A drawing's parameters, as its picture's file keeps them. Knows no file format."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .request import Request

if TYPE_CHECKING:
    from .pipeline import Pipeline


def drawing_parameters(
    request: Request, *, latents: str | None, bundle: str | os.PathLike[str], pipeline: Pipeline
) -> dict[str, Any]:
    """A drawing's parameters, enough to draw it again. Input files are named without their folders.

    latents: the name of the noise's file, or None. backend: its name is kept, because another one rounds differently.
    """
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    fields["images"] = [base_name(str(image)) for image in request.images]
    if request.cache is not None:
        fields["cache"] = repr(request.cache)
    inputs = {"latents": None if latents is None else base_name(latents), "bundle": base_name(bundle)}
    loras = [dataclasses.asdict(merged) for merged in pipeline.bundle.manifest.loras]
    engine = {"backend": pipeline.backend.name, "precision": pipeline.backend.precision}
    return {**fields, **inputs, "loras": loras, **engine}


def base_name(path: str | os.PathLike[str]) -> str:
    """A file's name without its folders, as valid text."""
    return os.fsdecode(Path(path).name).encode("utf-8", "backslashreplace").decode()
