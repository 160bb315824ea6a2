"""The `omnigen2` command and `python -m omnigen2_rt`: Ctrl-C while Python loads the command, or ends, stops it quietly.

During the work Ctrl-C is an exception, so that files are tidied up; see `cli.main`. Loads nothing else when imported.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

STOPPED = 130


def main() -> None:
    """Run the command, from its imports to its end. Exit codes are those of `cli.main`."""
    listens = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a job in the background ignores Ctrl-C
    if listens:
        signal.signal(signal.SIGINT, _stop)
    from .cli import main as run

    try:
        if listens:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:  # between two lines of `run`
        _stop()
    finally:
        if listens:
            signal.signal(signal.SIGINT, _stop)


def _stop(signal_number: int = signal.SIGINT, frame: FrameType | None = None) -> NoReturn:
    """End the process at once: an exception would end an import with a trace, or pass unheard in a callback of Python's own."""
    try:
        os.write(2, b"stopped\n")
    finally:
        os._exit(STOPPED)


if __name__ == "__main__":
    main()
