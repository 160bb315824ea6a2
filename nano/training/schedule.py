"""The whole training within a time: which parts run side by side, and for how long.

The transformer learns from the autoencoder's latents and the language model's hidden states, so these two come first. Each part
is a process of its own, because networks of this size leave most of a GPU idle. Knows no network.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

from .loop import Options

Process = subprocess.Popen[bytes]

FIRST_SHARE = 0.36
"""The share of the time in which the autoencoder and the MLLM are trained."""
REHEARSAL_SHARE = 0.15
"""The share of the time in which the transformer is trained beside them, on their old weights: its blocks are compiled then."""
REHEARSAL_SHARDS = 6
REHEARSAL_SCALE = 0.5
"""A factor of the batch sizes, because the three parts share the memory."""
POLL_S = 0.2


def run(options: Options, workers: int) -> None:
    """Train all parts. Raises RuntimeError as soon as one fails, after ending the others."""
    episodes = {"episodes": _start("episodes", options, options.seconds, options.shards, workers)}
    first = FIRST_SHARE * options.seconds
    beside = {
        "vae": _start("vae", options, first, options.shards),
        "mllm": _start("mllm", options, first, options.shards),
        "rehearsal": _start(
            "transformer",
            replace(options, scale=max(1, int(REHEARSAL_SCALE * options.scale))),
            REHEARSAL_SHARE * options.seconds,
            REHEARSAL_SHARDS,
        ),
    }
    _wait(beside, episodes)
    elapsed = time.monotonic() - options.started
    print(f"the first parts took {elapsed:.0f} s", flush=True)
    _wait({"transformer": _start("transformer", options, options.seconds - elapsed, options.shards)}, episodes)


def _wait(processes: Mapping[str, Process], beside: Mapping[str, Process]) -> None:
    """Return when all processes have ended well. Raises RuntimeError as soon as one of them, or one beside them, fails."""
    every = {**processes, **beside}
    while any(process.poll() is None for process in processes.values()):
        if any(process.poll() for process in every.values()):
            break
        time.sleep(POLL_S)
    failed = [name for name, process in every.items() if process.poll()]
    if failed:
        for process in every.values():
            process.kill()
        raise RuntimeError(f"training failed in {', '.join(failed)}; the lines above say why")


def _start(part: str, options: Options, seconds: float, shards: int, workers: int = 1) -> Process:
    """Start a part in a process of its own, with the options and these changes."""
    values = {
        "seconds": round(seconds),
        "work": options.work,
        "checkpoint": options.checkpoint,
        "device": options.device,
        "scale": options.scale,
        "rate": options.rate,
        "shards": min(shards, options.shards),
        "workers": workers,
    }
    flags = ["--keep-latents"] if options.keep_latents else []
    arguments = [text for name, value in values.items() for text in (f"--{name}", str(value))]
    return subprocess.Popen([sys.executable, "-m", str(__package__), part, *arguments, *flags])
