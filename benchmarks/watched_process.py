"""Runs a command as a process of its own and measures its memory, on Linux; also below a limit that the kernel enforces.

There are two peaks. Resident memory counts the pages of mapped weight files, which the system takes back when it needs them.
Anonymous memory is without them: what a machine must have.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup/memory")
JOIN = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
SAMPLE_S = 0.02
LAST_LINES = 12
"""The most lines of a command's output that are kept."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A finished process.

    code: its exit code, negative for a signal.
    last_lines: the end of what it printed, stdout and stderr together.
    seconds: its time, start and imports included.
    peak_resident_bytes: the kernel's figure.
    peak_anonymous_bytes: the largest of the values that were read every 20 ms.
    limit_hits: how often the kernel had to take pages back to keep the limit; None without one.
    """

    code: int
    last_lines: str
    seconds: float
    peak_resident_bytes: int
    peak_anonymous_bytes: int
    limit_hits: int | None


def run_watched(command: Sequence[str], memory_limit_bytes: int | None = None) -> Watched:
    """Run a command to its end.

    memory_limit_bytes: of the process with the page cache that it fills, in a control group (version 1, as root). The kernel
    kills a process that needs more. Raises OSError where there are no such groups.
    """
    with _control_group(memory_limit_bytes) as group, tempfile.TemporaryFile("w+", errors="replace") as output:
        joined = command if group is None else ["sh", "-c", JOIN, "sh", str(group), *command]
        started = time.monotonic()
        process = subprocess.Popen(joined, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        peak, ended = 0, 0
        try:
            while not ended:
                time.sleep(SAMPLE_S)
                peak = max(peak, _anonymous_bytes(process.pid))
                ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        except BaseException:
            process.kill()
            raise
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        return Watched(
            code=process.returncode,
            last_lines="\n".join(output.read().strip().splitlines()[-LAST_LINES:]),
            seconds=seconds,
            peak_resident_bytes=usage.ru_maxrss * 1024,
            peak_anonymous_bytes=peak,
            limit_hits=None if group is None else int((group / "memory.failcnt").read_text()),
        )


@contextmanager
def _control_group(limit_bytes: int | None) -> Iterator[Path | None]:
    """A group of this memory, removed at the end, or None without a limit."""
    if limit_bytes is None:
        yield None
        return
    group = CGROUPS / f"omnigen2-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes))
        yield group
    finally:
        group.rmdir()


def _anonymous_bytes(pid: int) -> int:
    """The process's anonymous memory; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)
