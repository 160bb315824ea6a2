"""Runs what a checkpoint's author wrote as a program in a child process, within bounds of time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError

WORKER = Path(__file__).with_name("bounded_worker.py")
CPU_S = 5
WAIT_S = 60
"""The child's time on the clock: more than its processor time, for a busy machine."""
MEMORY_BYTES = 2 * 2**30


def run_bounded(job: str, what: str, **arguments: Any) -> Any:
    """The result of a job of `bounded_worker.py`; the last few are remembered.

    what: the beginning of the error's sentence.
    Raises ExportError where the job fails, or takes more than CPU_S or MEMORY_BYTES.
    """
    answer = json.loads(_answer(json.dumps({"cpu_s": CPU_S, "memory_bytes": MEMORY_BYTES, "job": job, "arguments": arguments})))
    if "error" in answer:
        raise ExportError(f"{what}: {answer['error']}")
    return answer["result"]


@lru_cache(maxsize=4)
def _answer(order: str) -> str:
    """The child's output; where it ends without one, an error."""
    command = [sys.executable, "-P", str(WORKER)]  # -P: a module of this folder hides none of Python's own
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            command, input=order.encode(), capture_output=True, timeout=WAIT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return json.dumps({"error": f"it takes more than {WAIT_S} s"})
    except OSError as error:
        return json.dumps({"error": f"no child process of {sys.executable!r} starts: {error.strerror or error}"})
    if child.returncode == 0:
        return child.stdout.decode()
    reason = f"it takes more than {CPU_S} s or {MEMORY_BYTES >> 30} GiB of memory"
    lines = child.stderr.decode(errors="replace").strip().splitlines()
    return json.dumps({"error": reason if child.returncode < 0 or not lines else lines[-1]})
