"""The `omnigen2` command: makes the app and adds the commands, which stand in `commands/`.

Errors end here: one line on stderr and an exit code.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .commands import build, chat, draw, export, inspect, measure
from .runtime.errors import OmniGen2Error

INTERRUPTED = 130

app = typer.Typer(
    help="OmniGen2 without PyTorch: export a checkpoint, then draw, edit and measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    export.export,
    measure.compare,
    export.quantize,
    build.build,
    draw.generate,
    draw.demo,
    inspect.info,
    inspect.doctor,
    measure.bench,
    chat.chat,
    chat.reflect,
):
    app.command()(command)
app.command("eval")(measure.evaluate)


def print_version(wanted: bool) -> None:
    """Answer `--version` and end."""
    from importlib.metadata import version

    if wanted:
        typer.echo(version("omnigen2-rt"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Say which version.", callback=print_version, is_eager=True)] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """Run the command. Errors print one line and exit 1, Ctrl-C exits 130; `--debug` shows the trace."""
    debug = "--debug" in sys.argv[1:2]
    try:
        app()
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer turned Ctrl-C into this
            sys.stderr.write("\nstopped\n" if sys.stderr.isatty() else "stopped\n")
        raise
    except (OmniGen2Error, MemoryError) as error:
        fail(str(error) or "out of memory", debug)
    except OSError as error:
        fail(f"{error.filename or 'file'}: {error.strerror or error}", debug)


def fail(message: str, debug: bool) -> None:
    """Print one line on stderr and exit 1; with `debug`, raise the error again."""
    if debug:
        raise
    sys.stderr.write(f"\nerror: {message}\n" if sys.stderr.isatty() else f"error: {message}\n")
    raise SystemExit(1)
