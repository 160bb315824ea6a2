"""`omnigen2 info` and `doctor`: the contents of a file, and the backends that work on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime.errors import OmniGen2Error
from ..runtime.request import Request
from .option_values import memory_bytes
from .options import DEFAULTS, AsJson, Backend, MemoryLimit, Precision
from .terminal import show


def info(
    file: Annotated[Path, typer.Argument(help="A picture made here, a bundle (nano is the one that ships) or a checkpoint.")],
    verify: Annotated[bool, typer.Option(help="Bundle: hash every byte of its weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a picture was drawn with, or what a bundle or a checkpoint holds."""
    from .describe import describe

    show(describe(file, verify=verify), as_json)


def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="Also say what drawing with this bundle takes.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    memory_limit: MemoryLimit = None,
    steps: Annotated[int | None, typer.Option(help=f"Steps of that drawing; {DEFAULTS['steps']} by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is installed, which backends work here, and why the others don't; and what drawing with a bundle takes."""
    from .describe import diagnose, diagnose_drawing

    if bundle is None:
        given = {"--backend": backend != "auto", "--precision": precision != "auto"}
        given |= {"--memory-limit": memory_limit is not None, "--steps": steps is not None}
        for option in (name for name, is_given in given.items() if is_given):
            raise OmniGen2Error(f"{option} needs a BUNDLE: give its folder, or nano")
        show(diagnose(), as_json)
        return
    steps = DEFAULTS["steps"] if steps is None else steps
    Request(prompt="", steps=steps)
    limit = memory_bytes(memory_limit)
    show(diagnose() | diagnose_drawing(bundle, backend, precision, limit, steps), as_json)
