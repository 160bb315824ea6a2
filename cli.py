"""The `omnigen2` command: makes the app and adds the commands, which stand in `commands/`.

Errors end here: one line on stderr and an exit code.
"""

from __future__ import annotations

import errno
import sys
from typing import Annotated, Any

import typer

from .commands import batch, build, chat, draw, evaluate, export, inspect, lora, measure, pairs, reflect, serve
from .commands.streams import LastingStream, lasting_streams
from .commands.terminal import error_message
from .runtime.errors import one_line

FAILED, MISUSED, INTERRUPTED, UNREAD = 1, 2, 130, 141
USAGE_ERROR: Any = typer.BadParameter.__base__  # click's, or that of a typer which brings its own click

app = typer.Typer(
    help="OmniGen2 without PyTorch: export a checkpoint, then draw, edit and measure.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    export.export,
    measure.compare,
    export.quantize,
    build.build,
    lora.lora,
    draw.generate,
    batch.batch,
    draw.demo,
    inspect.info,
    inspect.doctor,
    measure.bench,
    chat.chat,
    reflect.reflect,
    serve.serve,
):
    app.command()(command)
app.add_typer(evaluate.app, name="eval")
app.add_typer(pairs.app, name="pairs")


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
    """Run the command, then exit: 0, 1 after an error, 2 for wrong words, 130 after Ctrl-C, 141 where nobody reads the output.

    An error prints one line; `--debug` shows its trace.
    """
    with lasting_streams() as output:
        code = _run(debug="--debug" in sys.argv[1:2])
        output.flush()
        code = code or _unwritten(output)
    raise SystemExit(code)


def _run(debug: bool) -> int:
    """The exit code of the command that `sys.argv` names. `debug`: an error leaves with its trace."""
    try:
        code = app(None if sys.argv[1:] else ["--help"], prog_name="omnigen2", standalone_mode=False)
    except USAGE_ERROR as error:
        path, what = error.ctx.command_path if error.ctx else _command_path(), error.format_message().rstrip(".")
        return _say(f"error: {one_line(what, 200)}; `{path} --help` lists what there is", MISUSED)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except typer.Abort as error:  # typer's word for Ctrl-C in older releases, and for what reads beyond an end
        if isinstance(error.__cause__, EOFError):
            return _say(f"error: {error_message(error.__cause__)}", FAILED)
        code = INTERRUPTED
    except Exception as error:
        if debug:
            raise
        return _say(f"error: {error_message(error)}", FAILED)
    return _say("stopped", INTERRUPTED) if code == INTERRUPTED else code or 0


def _command_path() -> str:
    """The command that `sys.argv` names, for an error without a context, such as that of an option without its value."""
    word = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    names = [command.name or command.callback.__name__ for command in app.registered_commands if command.callback]
    names += [group.name for group in app.registered_groups if group.name]
    return f"omnigen2 {word}" if word in names else "omnigen2"


def _say(line: str, code: int) -> int:
    """Print a line on stderr, below a line of progress on a terminal. Returns the exit code."""
    line = one_line(line)
    sys.stderr.write(f"\n{line}\n" if sys.stderr.isatty() else f"{line}\n")
    return code


def _unwritten(output: LastingStream) -> int:
    """The exit code for what standard output did not take: 0 if it took everything."""
    if output.failure is None:
        return 0
    if output.failure.errno == errno.EPIPE:  # the reader, such as `head`, has what it wanted
        return UNREAD
    return _say(f"error: can't write to the standard output: {output.failure.strerror or output.failure}", FAILED)
