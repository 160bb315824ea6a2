"""Our pipeline compared with the original's: seconds for a drawing and for an edit, exact and with TaylorSeer.

    python benchmarks/against_original.py --original PATH --original-python PYTHON [--steps 50] [--json FILE] [--only NAME …]

All variants draw the same picture with the same random weights and threads, each in a separate process. They take turns after
every step, so that a machine whose speed changes from minute to minute affects all alike; the others wait for a line on a pipe.
Seconds are those of the whole call from prompt to picture, without the waiting (for bare OpenVINO: of the transformer alone). A
ratio is the original's seconds over ours. `relative_error` is the distance of the latents from the original's in float32.
TaylorSeer's gain depends on the number of steps and needs all 50. Prints a table; `--json FILE` also stores all turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
PROMPT = "A red fox sits on a mossy stone beside a quiet forest stream at dawn, with soft golden light on its fur"
TASKS = {"text_to_image": 1.0, "editing": 2.0}
"""Tasks and their image guidance."""
BASELINES = ("original fp32", "original bf16", "original bf16 compiled")
BARE = "bare OpenVINO bf16"
SCHEME = "int8"
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way of drawing.

    backend: of our runtime; None for the original.
    scheme: quantizes the bundle.
    bare: runs the transformer's graph alone.
    """

    name: str
    precision: str
    backend: str | None = None
    scheme: str | None = None
    taylorseer: bool = False
    compiled: bool = False
    bare: bool = False


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(name="original fp32", precision="fp32"),
        Variant(name="original bf16", precision="bf16"),
        Variant(name="original fp32 compiled", precision="fp32", compiled=True),
        Variant(name="original bf16 compiled", precision="bf16", compiled=True),
        Variant(name="original fp32 TaylorSeer", precision="fp32", taylorseer=True),
        Variant(name="ONNX Runtime fp32", backend="ort-cpu", precision="fp32"),
        Variant(name=BARE, backend="openvino", precision="bf16", bare=True),
        Variant(name="OpenVINO bf16", backend="openvino", precision="bf16"),
        Variant(name="OpenVINO int8", backend="openvino", precision="bf16", scheme=SCHEME),
        Variant(name="OpenVINO bf16 TaylorSeer", backend="openvino", precision="bf16", taylorseer=True),
        Variant(name="OpenVINO int8 TaylorSeer", backend="openvino", precision="bf16", scheme=SCHEME, taylorseer=True),
    )
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One drawing, the same for all variants.

    noise: the file of the initial noise (1, C, h, w) float32.
    images: the files of the input pictures.
    """

    task: str
    size_px: int
    steps: int
    noise: Path
    images: tuple[Path, ...]

    def message(self, variant: Variant, latents: Path) -> dict[str, Any]:
        """The message to a worker, which writes the final latents to the file `latents`."""
        return {
            "prompt": PROMPT,
            "images": list(map(str, self.images)),
            "size_px": self.size_px,
            "steps": self.steps,
            "text_guidance": 4.0,
            "image_guidance": TASKS[self.task],
            "noise": str(self.noise),
            "taylorseer": variant.taylorseer,
            "latents": str(latents),
        }


class Worker:
    """A worker process. Raises RuntimeError if it ends before it answers."""

    def __init__(self, variant: Variant, command: Sequence[str], threads: int) -> None:
        self.variant = variant
        self.turns_s: list[float] = []
        self.result: dict[str, Any] | None = None
        limits = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | limits
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.description = self._answer()

    def start(self, message: dict[str, Any]) -> None:
        """Run the first turn of a drawing."""
        self.turns_s, self.result = [], None
        self._turn(json.dumps(message))

    def go_on(self) -> None:
        """Run the next turn, unless the drawing is done."""
        if self.result is None:
            self._turn("go on")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _turn(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` raises the error
            print(line, file=self._process.stdin, flush=True)
        answer = self._answer()
        self.turns_s.append(answer["seconds"])
        self.result = answer.get("result")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"{self.variant.name} ended with {self._process.returncode}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def make_bundles(configuration: Path, folder: Path, schemes: set[str | None]) -> tuple[Path, dict[str | None, Path]]:
    """The random checkpoint and its bundles by scheme, written unless they exist."""
    checkpoint, bundle, small = folder / "checkpoint", folder / "bundle", folder / SCHEME
    if not bundle.exists():
        from random_checkpoint import write_checkpoint

        from omnigen2_rt.exporter.export import export_bundle

        write_checkpoint(configuration, checkpoint, dtype="fp32")
        export_bundle(checkpoint, bundle, precisions=("fp32",))
    if SCHEME in schemes and not small.exists():
        from omnigen2_rt.exporter.quantize.bundle import quantize_bundle

        quantize_bundle(bundle, small, SCHEME)
    return checkpoint, {None: bundle, SCHEME: small}


def command(variant: Variant, arguments: argparse.Namespace, checkpoint: Path, bundles: dict[str | None, Path]) -> list[str]:
    """The command that starts a variant's worker."""
    settings = {"precision": variant.precision, "threads": arguments.threads}
    if variant.backend is None:
        settings |= {"original": str(arguments.original), "checkpoint": str(checkpoint), "compiled": variant.compiled}
        return [arguments.original_python, str(HERE / "original_worker.py"), json.dumps(settings)]
    settings |= {"bundle": str(bundles[variant.scheme]), "backend": variant.backend, "bare": variant.bare}
    return [sys.executable, str(HERE / "our_worker.py"), json.dumps(settings)]


def race(workers: Sequence[Worker], job: Job, folder: Path) -> None:
    """Run one drawing of each worker, one step at a time. Every round starts with another worker."""
    for worker in workers:
        worker.start(job.message(worker.variant, latents_file(folder, worker.variant.name)))
    first = 0
    while any(worker.result is None for worker in workers):
        first = (first + 1) % len(workers)
        for worker in (*workers[first:], *workers[:first]):
            worker.go_on()


def latents_file(folder: Path, variant: str) -> Path:
    return folder / f"{variant.replace(' ', '-')}.npy"


def summary(workers: Sequence[Worker], folder: Path) -> dict[str, Any]:
    """Seconds, ratios and errors of a finished race, by variant."""
    by_name = {worker.variant.name: worker for worker in workers}
    return {name: _summary(worker, by_name, folder) for name, worker in by_name.items()}


def _summary(worker: Worker, by_name: dict[str, Worker], folder: Path) -> dict[str, Any]:
    assert worker.result is not None
    seconds = worker.result["transformer_s"] if worker.variant.bare else sum(worker.turns_s)
    entry: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "median_step_s": round(statistics.median(worker.turns_s[1:-1]), 4),
        **worker.result,
        "turns_s": [round(turn, 4) for turn in worker.turns_s],
    }
    variant = worker.variant
    if variant.bare:
        return entry
    entry["relative_error"] = _relative_error(folder, variant.name)
    if variant.backend is not None:
        ratios = {name: sum(by_name[name].turns_s) / seconds for name in BASELINES if name in by_name}
        entry["times_faster_than"] = {name: round(ratio, 3) for name, ratio in ratios.items()}
    if variant.name == "OpenVINO bf16" and BARE in by_name:
        bare = by_name[BARE].result
        assert bare is not None
        entry["transformer_over_bare"] = round(worker.result["transformer_s"] / bare["transformer_s"], 3)
    return entry


def _relative_error(folder: Path, variant: str) -> float | None:
    """The relative L2 error against the original in float32; None if that wasn't run."""
    expected_file = latents_file(folder, BASELINES[0])
    if not expected_file.exists():
        return None
    actual, expected = np.load(latents_file(folder, variant)), np.load(expected_file)
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


def make_job(task: str, size_px: int, steps: int, folder: Path) -> Job:
    rng = np.random.default_rng(7)
    noise = folder / "noise.npy"
    np.save(noise, rng.standard_normal((1, 16, size_px // 8, size_px // 8), dtype=np.float32))
    images: tuple[Path, ...] = ()
    if task == "editing":
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        images = (folder / "reference.png",)
        coarse.resize((size_px, size_px), Image.Resampling.BICUBIC).save(images[0])
    return Job(task=task, size_px=size_px, steps=steps, noise=noise, images=images)


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    lines = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith(("model name", "flags"))]
    flags = lines[1].split() if len(lines) > 1 else []
    instructions = [flag for flag in INSTRUCTIONS if flag in flags]
    return {"cpu": lines[0] if lines else platform.processor(), "cores": os.cpu_count(), "instructions": instructions}


def table(tasks: dict[str, Any]) -> str:
    """A line per variant: seconds, seconds per step, speed relative to each baseline, and the error."""
    headings = "".join(f"{name.removeprefix('original '):>15}" for name in BASELINES)
    lines = [f"{'':42}{'seconds':>9}{'a step':>9}{headings}{'error':>10}"]
    for task, variants in tasks.items():
        for name, entry in variants.items():
            ratios = entry.get("times_faster_than", {})
            faster = "".join(f"{ratios[baseline]:13.2f} x" if baseline in ratios else " " * 15 for baseline in BASELINES)
            error = "" if entry.get("relative_error") is None else f"{entry['relative_error']:10.1e}"
            lines.append(f"{task:16}{name:26}{entry['seconds']:9.2f}{entry['median_step_s']:9.3f}{faster}{error}")
            if "transformer_over_bare" in entry:
                lines.append(f"{'':16}its transformer: {entry['transformer_over_bare']:.2f} x the time of bare OpenVINO's")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="the original's repository")
    parser.add_argument("--original-python", required=True, help="an interpreter with its requirements")
    parser.add_argument("--configuration", type=Path, default=HERE / "configuration")
    parser.add_argument("--work", type=Path, help="keep the checkpoint and the bundles in this folder")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write everything here, after each task")
    arguments = parser.parse_args()
    if arguments.steps < 2:
        parser.error("--steps below 2 has no step that is neither the first nor the last")
    with tempfile.TemporaryDirectory() as temporary:
        report = run(arguments, arguments.work or Path(temporary), Path(temporary))
    print(table(report["tasks"]))


def run(arguments: argparse.Namespace, work: Path, folder: Path) -> dict[str, Any]:
    """Run the whole benchmark, after two unmeasured steps of each variant."""
    load_before = os.getloadavg()
    variants = [VARIANTS[name] for name in arguments.only]
    checkpoint, bundles = make_bundles(arguments.configuration, work, {variant.scheme for variant in variants})
    report: dict[str, Any] = {
        "benchmark": "against_original",
        "machine": machine(),
        "settings": {"size_px": arguments.size, "steps": arguments.steps, "threads": arguments.threads},
        "load_averages": {"before": load_before},
        "versions": {},
        "tasks": {},
    }
    with ExitStack() as stack:
        workers = []
        for variant in variants:
            workers.append(Worker(variant, command(variant, arguments, checkpoint, bundles), arguments.threads))
            stack.callback(workers[-1].close)
            report["versions"] |= workers[-1].description["versions"]
        for task in arguments.tasks:
            race(workers, make_job(task, arguments.size, 2, folder), folder)
            race(workers, make_job(task, arguments.size, arguments.steps, folder), folder)
            report["tasks"][task] = summary(workers, folder)
            report["load_averages"][f"after {task}"] = os.getloadavg()
            if arguments.json:
                arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
