"""Calibration of a bundle: settings and prompts, and the drawings that run while statistics are collected or errors measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.backends import Backend, open_backend
from ...runtime.backends.machine_limits import check_limits, usable_memory_bytes
from ...runtime.bundle import CALIBRATION, MAX_PROMPT_BYTES, Bundle
from ...runtime.errors import BundleError, ExportError
from ...runtime.files.reading import read_bytes
from ...runtime.pipeline import Pipeline
from ...runtime.progress import Progress, no_progress
from ...runtime.request import Request

PROMPTS = (
    "a red cube on a wooden table, soft light from a window",
    "a photograph of a grey cat asleep on a blue sofa",
    "an old fishing boat in a harbour at sunset, oil painting",
    "a poster with the word HELLO in large white letters",
    "three green apples and a glass of water on a white plate",
    "a street in the rain at night, neon signs, people with umbrellas",
)
SIZE_PX = 256
BACKEND, PRECISION = "ort-cpu", "fp32"


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The drawings of a calibration: each prompt from noise, then as an instruction for the picture before.

    prompts: at least one.
    size_px: height and width.
    steps: of each drawing.
    Raises ExportError where there is no prompt, RequestError or BackendError where a number is out of range.
    """

    prompts: tuple[str, ...] = PROMPTS
    size_px: int = SIZE_PX
    steps: int = 4
    memory_limit_bytes: int | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ExportError("there is no prompt to calibrate with: give at least one")
        check_limits(memory_limit_bytes=self.memory_limit_bytes, threads=self.threads)
        self.request(self.prompts[0])

    def request(self, prompt: str, seed: int = 0) -> Request:
        """A drawing of a prompt."""
        return Request(prompt=prompt, height_px=self.size_px, width_px=self.size_px, steps=self.steps, seed=seed)

    def open(self, bundle: Bundle) -> Backend:
        """Open the calibration's backend on a bundle."""
        return open_backend(bundle, BACKEND, PRECISION, self.threads, self.memory_limit_bytes)

    def draw(self, pipeline: Pipeline, prompts: Sequence[str], progress: Progress = no_progress) -> None:
        """Draw each prompt, then edit its picture by the next prompt (after the last comes the first)."""
        for index, prompt in enumerate(prompts):
            picture = pipeline.generate(self.request(prompt, index)).images[0]
            instruction = prompts[(index + 1) % len(prompts)]
            edit = replace(self.request(instruction, index), images=(picture,), image_guidance=2.0)
            pipeline.generate(edit)
            progress(index + 1, len(prompts), "looking at activations")


def calibration_of(bundle: Bundle, **settings: Any) -> Calibration:
    """The bundle's own calibration prompts, or PROMPTS, at its own size where that is below SIZE_PX.

    settings: fields of Calibration; one that isn't None replaces the bundle's.
    Where the float32 weights of all its graphs would take more than half of the memory here, that half is the limit.
    """
    defaults = {
        "prompts": _own_prompts(bundle) if settings.get("prompts") is None else PROMPTS,
        "size_px": min(SIZE_PX, bundle.manifest.vae.sample_px),
        "memory_limit_bytes": _memory_limit(bundle),
    }
    return Calibration(**{**defaults, **{name: value for name, value in settings.items() if value is not None}})


def _own_prompts(bundle: Bundle) -> tuple[str, ...]:
    """The bundle's prompts, or PROMPTS. Raises BundleError for a file of prompts that the manifest doesn't list."""
    file = bundle.path / CALIBRATION
    if CALIBRATION in bundle.hashes:
        return read_prompts(file)
    if file.exists():
        raise BundleError(f"{str(file)!r} isn't listed in its bundle: name it with --prompts, or export the bundle again")
    return PROMPTS


def _memory_limit(bundle: Bundle) -> int | None:
    half = usable_memory_bytes() // 2
    weights = sum(graph.resident_bytes for graph in bundle.manifest.graphs if graph.precision == PRECISION)
    return half if weights > half else None


def read_prompts(file: Path) -> tuple[str, ...]:
    """The lines of a text file that aren't empty. Raises ExportError where it can't be read, is too large or has none."""
    try:
        lines = read_bytes(file, MAX_PROMPT_BYTES).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ExportError(f"can't read prompts from {str(file)!r}: {reason}") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ExportError(f"{str(file)!r} holds no prompt: write one a line")
    return prompts
