"""A pipeline without a model, and runs of a batch with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from omnigen2_rt.batch.driver import draw_here, run_batch
from omnigen2_rt.batch.manifest import Record
from omnigen2_rt.batch.outputs import FolderOutput, Output
from omnigen2_rt.batch.progress import Progress
from omnigen2_rt.batch.rows import RowFile
from omnigen2_rt.runtime.request import Request, Result

BUNDLE = "0" * 64
"""The digest of the bundle that the double pretends to draw with."""


class FakePipeline:
    """Draws plain pictures whose colour is the seed's, and notes the prompts. on_draw: called with each request; may raise."""

    backend = SimpleNamespace(name="fake", precision="fp32")
    bundle = SimpleNamespace(manifest=SimpleNamespace(loras=()))

    def __init__(self, on_draw: Callable[[Request], object] = lambda request: None, keeps_prompts: bool = True) -> None:
        self.prompts: list[str] = []
        self.closed = 0
        self._on_draw, self._keeps_prompts = on_draw, keeps_prompts

    def generate(self, request: Request) -> Result:
        if self._keeps_prompts:
            self.prompts.append(request.prompt)
        self._on_draw(request)
        colour = (request.seed % 256, len(request.prompt) % 256, request.steps % 256)
        images = [Image.new("RGB", (16, 16), colour) for _ in range(request.images_per_prompt)]
        return Result(images=images, latents=np.zeros((1, 1, 1, 1), np.float32), steps=(), timings={}, request=request)

    def close(self) -> None:
        self.closed += 1


def run_into(output: Output, path: Path, pipeline: Any, bundle: str = BUNDLE, **defaults: str) -> tuple[Progress, list[Record]]:
    """Run a batch with a pipeline's double. Returns where it ended, and each row's record as it was reported."""
    records: list[Record] = []
    rows = RowFile.open(path, defaults)
    progress = run_batch(rows, bundle, output, draw_here(pipeline, "nano"), lambda record, place, at: records.append(record))
    assert progress.done == progress.total == len(records)
    return progress, records


def run(path: Path, folder: Path, pipeline: Any, bundle: str = BUNDLE, **defaults: str) -> tuple[Progress, list[Record]]:
    """The same into a folder."""
    output = FolderOutput(folder)
    try:
        return run_into(output, path, pipeline, bundle, **defaults)
    finally:
        output.close()


def write_jsonl(path: Path, *rows: Mapping[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def manifest_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder's manifest."""
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]


def pictures_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}
