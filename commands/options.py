"""Options that several commands share, and what every command does with them: checks for an extra, opens the pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtime.errors import OmniGen2Error, RequestError
from ..runtime.request import Request
from .merging import with_loras
from .option_values import lora_folder, memory_bytes

if TYPE_CHECKING:
    from ..runtime.load_options import LoadOptions
    from ..runtime.pipeline import Pipeline

DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Request)}
"""Every default of a drawing is `Request`'s own."""

BundleName = Annotated[str, typer.Option("--bundle", help="The bundle's folder.")]
Backend = Annotated[str, typer.Option(help="auto, or a backend that `omnigen2 doctor` lists.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
Height = Annotated[int | None, typer.Option(help="Pixels of a picture from top to bottom; by default the model's own size.")]
Width = Annotated[int | None, typer.Option(help="Pixels of a picture from left to right; by default the model's own size.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default the backend decides.")]
MemoryLimit = Annotated[str | None, typer.Option(help="Keep open weights below this, e.g. 4GB; slower.")]
Loras = Annotated[list[str] | None, typer.Option("--lora", help="A LoRA to merge, FILE or FILE:SCALE; may be repeated.")]
LoraFolder = Annotated[
    Path | None,
    typer.Option(
        "--lora-dir", parser=lora_folder, metavar="PATH", help="The folder of merged bundles; by default beside the bundle."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raises RequestError for a whole number out of range."""
    if not least <= value <= most:
        raise RequestError(f"{name}={value} is out of range; {least} to {most} are allowed")


def open_pipeline(
    bundle: str | Path,
    backend: str,
    precision: str,
    threads: int | None,
    memory_limit: str | None,
    loras: Sequence[str] | None = None,
    lora_dir: Path | None = None,
    shares: Pipeline | None = None,
) -> Pipeline:
    """Open the pipeline that a command works with. Raises as `load` and `with_loras` do."""
    from ..runtime.pipeline import load

    options = load_options(backend, precision, threads, memory_limit)
    return load(with_loras(bundle, loras or (), lora_dir), **dataclasses.asdict(options), shares=shares)


def load_options(backend: str, precision: str, threads: int | None, memory_limit: str | None) -> LoadOptions:
    """The options of the command line with which bundles are opened. Raises RequestError."""
    from ..runtime.load_options import LoadOptions

    limit = memory_bytes(memory_limit)
    return LoadOptions(backend=backend, precision=precision, threads=threads, memory_limit_bytes=limit)


def needs_extra(extra: str, *modules: str) -> None:
    """Raises OmniGen2Error unless the modules of an install extra are there."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise OmniGen2Error(f'this needs {", ".join(missing)}: pip install "omnigen2-rt[{extra}]"')
