"""The command as a process of its own, also on a disk that is full; and an `export` of two small graphs, which takes seconds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "omnigen2_rt")
ROOT = Path(__file__).parents[2]
TWO_GRAPHS = """
from omnigen2_rt.exporter import export
from omnigen2_rt.exporter.components.diffusion_transformer import timestep_embedding, velocity_head
export.COMPONENTS = (timestep_embedding, velocity_head)
from omnigen2_rt.cli import main
main()
"""
EXPORT = (sys.executable, "-c", TWO_GRAPHS, "export")
SHARED_GRAPHS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from tests.traced_graphs import share_graphs
sys.path.pop(0)
share_graphs()
"""
EXPORT_OF_SHARED_GRAPHS = (sys.executable, "-c", SHARED_GRAPHS + TWO_GRAPHS, "export")
"""The same, and takes the graphs that the tests have traced before."""

# A filesystem of $2 bytes on the folder $1. What was left by the run that fails for want of room may not hinder the next one.
ON_A_SMALL_DISK = """
disk=$1; size=$2; whole=$3; shift 3
mount -t tmpfs -o size="$size" tmpfs "$disk" || exit 77
"$@"; code=$?
[ ! -e "$disk/$whole" ] || exit 78
mount -o remount,size=256m "$disk" && "$@" >&2 || exit 79
[ -e "$disk/$whole" ] || exit 80
exit $code
"""
IN_A_NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")


def run(
    *words: object, environment: Mapping[str, str | None] | None = None, before: Callable[[], object] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end. environment: changes to ours, None to leave out; before: called in the child just before the command."""
    changed = {name: value for name, value in {**os.environ, **(environment or {})}.items() if value is not None}
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, env=changed, preexec_fn=before)


def hear_ctrl_c() -> None:
    """For a child, just before its command: what a shell starts in the background ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start(*words: object, cwd: Path) -> subprocess.Popen[str]:
    """Start it where Ctrl-C reaches it."""
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        preexec_fn=hear_ctrl_c,
    )


def run_on_a_small_disk(disk: Path, size_bytes: int, whole: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run it with a new filesystem of that size on the folder `disk`, then once more with room, which must succeed.

    whole: what a run leaves on the disk when it succeeds, and must not leave when it fails. The return code and standard
    output are the first run's.
    """
    if not _may_mount():
        pytest.skip("no filesystem may be mounted here, so no disk can be filled (needs Linux's user namespaces)")
    disk.mkdir()
    return run(*IN_A_NAMESPACE, ON_A_SMALL_DISK, "sh", disk, size_bytes, whole, *words)


@cache
def _may_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return run(*IN_A_NAMESPACE, "mount -t tmpfs tmpfs /tmp").returncode == 0
