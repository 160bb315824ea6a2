"""`eval --rewrite`: rewritten instructions are drawn; the judge is asked about those that were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.errors import RequestError
from ..runtime.files.hashes import file_hash
from ..runtime.files.kept_results import KeptResults
from ..runtime.manifest import MANIFEST
from .terminal import note

if TYPE_CHECKING:
    from ..evaluation.samples import Sample
    from ..rewriting.plan import RewritePlan
    from ..runtime.pipeline import Pipeline
    from ..runtime.progress import Progress

REWRITES = "rewrites.jsonl"
"""The file of rewrites in the folder of a model's results: a later run draws from the same texts."""


def rewritten_samples(
    plan: RewritePlan, pipeline: Pipeline, samples: Sequence[Sample], folder: Path, progress: Progress
) -> list[Sample]:
    """The samples with rewritten instructions; a refused rewrite leaves its instruction. folder: of the model's results.

    Raises RequestError where the file of rewrites can't be written, and EndpointError where the rewriter doesn't answer.
    """
    from ..rewriting.kept_rewrites import KeptRewriter

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"the folder {str(folder)!r} can't be made: {error.strerror or error}") from error
    kept, rewrites = KeptResults(folder / REWRITES), []
    try:
        digest = plan.digest(file_hash(pipeline.bundle.path / MANIFEST))
        rewriter = KeptRewriter(plan.open(pipeline, note), kept, digest)
        for number, sample in enumerate(samples):
            progress(number, len(samples), "rewriting")
            rewrites.append(rewriter.rewrite(sample.instruction, len(sample.inputs)))
    finally:
        kept.close()
    refused = [rewrite.refused for rewrite in rewrites if rewrite.refused is not None]
    if refused:
        note(f"{len(refused)} of {len(samples)} instructions are drawn as they are; the first one: {refused[0]}")
    return [replace(sample, instruction=done.prompt) for sample, done in zip(samples, rewrites, strict=True)]
