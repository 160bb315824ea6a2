"""Jobs and bundles without graphs, for tests of where a bundle is written; and a process that is killed at such a job."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from omnigen2_rt.exporter.staging import Work
from omnigen2_rt.runtime.manifest import MANIFEST, Manifest
from tests.commands.processes import ROOT

MANIFEST_TEXT = (ROOT / "nano" / "checkpoint" / MANIFEST).read_text(encoding="utf-8")

KILLED_PROCESS = """
import os, signal, sys
from pathlib import Path
from omnigen2_rt.exporter import staging
from tests.exporter.staged_work import empty_bundle, work
target, moment = Path(sys.argv[1]), sys.argv[2]
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
rename = os.rename
def kill_at_the_second(first, second):
    os.rename = kill
    rename(first, second)
if moment == "between two renames":
    staging.exchange, os.rename = (lambda *_: False), kill_at_the_second
if moment == "after two renames":
    staging.exchange, staging._remove = (lambda *_: False), kill
if moment == "after the exchange":
    staging._remove = kill
if moment == "as it makes the folder":
    make = Path.mkdir
    def make_and_kill(path, *rest, **options):
        make(path, *rest, **options)
        if path.name.startswith("omnigen2-unfinished-"):
            kill()
    Path.mkdir = make_and_kill
with staging.open_staging(work(target, force=True)) as opened:
    if moment == "before any progress":
        (opened.bundle / "calibration.onnx").touch()
        kill()
    opened.save_progress({"a": 1})
    if moment == "at work":
        kill()
    empty_bundle(opened.bundle, "new")
    opened.publish()
"""


def work(target: Path, **changes: Any) -> Work:
    """A job of the target; its options may be changed."""
    return replace(Work("export", target, "checkpoint", [], {"precisions": ["fp32"]}, False), **changes)


def empty_bundle(folder: Path, source: str) -> Path:
    """Make the folder a bundle of that name without graphs and files."""
    folder.mkdir(exist_ok=True)
    manifest = replace(Manifest.from_json(MANIFEST_TEXT, MANIFEST), source=source, graphs=(), files=())
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def source_of(folder: Path) -> str:
    return Manifest.from_json((folder / MANIFEST).read_text(encoding="utf-8"), MANIFEST).source


def killed(target: Path, moment: str) -> None:
    """A process that makes the bundle `new` with the target's name, killed at that moment."""
    words = [sys.executable, "-c", KILLED_PROCESS, target, moment]
    finished = subprocess.run(words, capture_output=True, cwd=ROOT)
    assert finished.returncode == -signal.SIGKILL, finished.stderr.decode()
