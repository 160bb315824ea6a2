"""Memory that a bundle takes on a CPU: by whole drawings, and by a step of the transformer beside its weights.

    python benchmarks/memory.py BUNDLE [--backend openvino] [--precision bf16] [--memory-limit-gb 6] [--sizes 256 512]
        [--forward 1024] [--json FILE]

Each figure comes from a process of its own, on Linux. A drawing is all of it: the prompt, `--steps` steps with text guidance, and
the decoder; its peak is everything resident, mapped weight files included. A step is measured against the same process after it
ran the transformer at 64 × 64 pixels, so that its weights are packed and counted before; mapped weights that are then read
once more count as the step's. Made for the full-size model with random weights (`full_size_configuration`).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import omnigen2_rt as og
from omnigen2_rt.commands.describe import installed_version
from omnigen2_rt.runtime.rope import request_rotary

PROMPT = "A red fox sits on a mossy stone beside a quiet forest stream at dawn"
TEXT_TOKENS = 60
PACKAGES = ("omnigen2-rt", "onnxruntime", "openvino", "numpy")


def draw(settings: dict[str, Any], size_px: int, steps: int) -> dict[str, Any]:
    """A drawing from an empty process."""
    started = time.perf_counter()
    marks: list[float] = []
    with og.load(**settings) as pipeline:
        request = og.Request(prompt=PROMPT, height_px=size_px, width_px=size_px, steps=steps)
        result = pipeline.generate(request, on_step=lambda step: marks.append(time.perf_counter()))
        seconds = time.perf_counter() - started
        between = [after - before for before, after in zip(marks, marks[1:], strict=False)]
        return {
            "seconds": seconds,
            "step_s": min(between),
            "stages_s": result.timings,
            "peak_resident_bytes": memory("VmHWM"),
            "finite": bool(np.isfinite(result.latents).all()),
        }


def step_memory(settings: dict[str, Any], size_px: int, references: int) -> dict[str, Any]:
    """The transformer's peak at a size, above what it holds after a run at 64 × 64 pixels."""
    with og.load(**settings) as pipeline:
        pipeline.components.sessions.run("transformer", transformer_inputs(pipeline, 64, 0))
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        feeds = transformer_inputs(pipeline, size_px, references)
        started = time.perf_counter()
        pipeline.components.sessions.run("transformer", feeds)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "resident_bytes_before": before, "bytes_above": memory("VmHWM") - before}


def transformer_inputs(pipeline: Any, size_px: int, references: int) -> dict[str, np.ndarray]:
    facts = pipeline.bundle.manifest.transformer
    spec = pipeline.bundle.graph("transformer", pipeline.backend.graph_precision)
    side = size_px // pipeline.bundle.manifest.vae.downscale // facts.patch_size
    rotary = request_rotary({"cond": TEXT_TOKENS}, [(side, side)] * references, (side, side), facts.rope_axes, facts.rope_theta)
    rng = np.random.default_rng(0)
    tokens = {"context": TEXT_TOKENS, "references": references * side * side, "image_tokens": side * side}
    made = {name: rng.standard_normal((1, count, facts.hidden_size), np.float32) for name, count in tokens.items()}
    made["temb"] = rng.standard_normal((1, spec.inputs["temb"].shape[-1]), np.float32)
    return {**made, "cos": rotary.joint["cond"].cos, "sin": rotary.joint["cond"].sin}


def memory(name: str) -> int:
    """Bytes of this process by their name in /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def in_own_process(job: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--job", json.dumps(job)]
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if finished.returncode:
        return {"ended_with": finished.returncode}
    found: dict[str, Any] = json.loads(finished.stdout)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        job = json.loads(sys.argv[2])
        function = {"draw": draw, "step": step_memory}[job.pop("what")]
        print(json.dumps(function(**job)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-limit-gb", type=float)
    parser.add_argument("--sizes", type=int, nargs="*", default=[256, 512])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--forward", type=int, nargs="*", default=[1024])
    parser.add_argument("--references", type=int, nargs="*", default=[0, 1], help="of the forward's size")
    parser.add_argument("--json", type=Path, help="also write everything here, after each figure")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps below 2 has no step after the first")
    limit = None if options.memory_limit_gb is None else int(options.memory_limit_gb * 1e9)
    settings = {name: getattr(options, name) for name in ("backend", "precision", "threads")}
    settings |= {"bundle": str(options.bundle), "memory_limit_bytes": limit}
    report: dict[str, Any] = {
        "benchmark": "memory",
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "versions": {name: installed_version(name) for name in PACKAGES},
        "load_averages": {"before": os.getloadavg()},
        "settings": {**settings, "bundle": options.bundle.name, "steps": options.steps},
    }
    jobs = {f"drawing {size}": {"what": "draw", "size_px": size, "steps": options.steps} for size in options.sizes}
    jobs |= {
        f"step {size} with {count} references": {"what": "step", "size_px": size, "references": count}
        for size in options.forward
        for count in options.references
    }
    for name, job in jobs.items():
        report[name] = in_own_process({**job, "settings": settings})
        print(name, json.dumps(report[name]), flush=True)
        report["load_averages"][f"after {name}"] = os.getloadavg()
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
