"""Our pipeline beside the original's own: seconds for a drawing and for an edit, exact and with TaylorSeer.

    python benchmarks/against_original.py --original PATH --original-python PYTHON [--steps 50] [--repeats 3] [--json FILE]
        [--also openvino:bf16 openvino:fp32]

Both run the same random weights on the same threads in float32: ours on ONNX Runtime, the original in torch eager; `--also` adds
other backends and precisions of ours. All take turns, so that a machine that slows down slows each. Prints a table and one JSON
document. A ratio is the original's median seconds, whole call, over ours; `latents_max_difference` says that both drew the same
picture, `latents_relative_error` how far each of ours lies from the original. `load_averages` say whether the machine was free:
before a run they should be near 0. TaylorSeer's gain depends on the number of steps: only 50 show it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import omnigen2_rt as og
from omnigen2_rt.runtime.describe import installed_version
from omnigen2_rt.runtime.pipeline import Pipeline

HERE = Path(__file__).parent
PROMPT = "A red fox sits on a mossy stone beside a quiet forest stream at dawn, with soft golden light on its fur"
TASKS = {"text_to_image": 1.0, "editing": 2.0}  # and their image guidance
MODES = ("exact", "taylorseer")
RATIOS = {
    "exact": ("ours_exact", "original_exact"),
    "taylorseer": ("ours_taylorseer", "original_exact"),
    "taylorseer_against_its_own": ("ours_taylorseer", "original_taylorseer"),
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One drawing, the same for both sides. Files: the noise (1, C, h, w) float32, and images for editing."""

    task: str
    size_px: int
    steps: int
    noise: Path
    images: tuple[Path, ...]

    def request(self, taylorseer: bool) -> og.Request:
        return og.Request(
            prompt=PROMPT,
            images=tuple(map(str, self.images)),
            height_px=self.size_px,
            width_px=self.size_px,
            steps=self.steps,
            text_guidance=4.0,
            image_guidance=TASKS[self.task],
            latents=np.load(self.noise),
            cache=og.TaylorSeer() if taylorseer else None,
        )

    def message(self, taylorseer: bool, latents: Path) -> dict[str, Any]:
        return {
            "prompt": PROMPT,
            "images": list(map(str, self.images)),
            "size_px": self.size_px,
            "steps": self.steps,
            "text_guidance": 4.0,
            "image_guidance": TASKS[self.task],
            "noise": str(self.noise),
            "taylorseer": taylorseer,
            "latents": str(latents),
        }


class Original:
    """The worker process. Raises RuntimeError where it ends before it answers."""

    def __init__(self, python: str, original: Path, checkpoint: Path, threads: int) -> None:
        command = [python, str(HERE / "original_worker.py"), str(original), str(checkpoint), str(threads)]
        limits = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | limits
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._answer()

    def draw(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(message), file=self._process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the original's worker ended with {self._process.wait()}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def make_bundle(configuration: Path, folder: Path) -> tuple[Path, Path]:
    """The random checkpoint and its bundle, made where they don't exist yet."""
    checkpoint, bundle = folder / "checkpoint", folder / "bundle"
    if not bundle.exists():
        from random_checkpoint import write_checkpoint

        from omnigen2_rt.exporter.export import export_bundle

        write_checkpoint(configuration, checkpoint, dtype="fp32")
        export_bundle(checkpoint, bundle, precisions=("fp32",))
    return checkpoint, bundle


def draw_ours(pipeline: Pipeline, job: Job, taylorseer: bool, latents: Path) -> dict[str, Any]:
    pipeline._prompts._remembered.clear()  # the original encodes its prompts every time
    marks: list[float] = []
    request = job.request(taylorseer)
    started = time.perf_counter()
    result = pipeline.generate(request, on_step=lambda step: marks.append(time.perf_counter()))
    seconds = time.perf_counter() - started
    np.save(latents, result.latents)
    steps = [after - before for before, after in zip(marks, marks[1:], strict=False)]
    return {"seconds": seconds, "steps_s": steps, "stages_s": result.timings}


def measure(
    pipelines: Mapping[str, Pipeline], original: Original, job: Job, repeats: int, folder: Path
) -> dict[str, Any]:
    """All variants in turn, `repeats` times. Returns medians, ratios and how far the latents lie apart.

    pipelines: ours by name; "ours" is held against the original in every way, the others in the original's exact mode.
    """
    runs: dict[str, list[dict[str, Any]]] = {f"{side}_{mode}": [] for mode in MODES for side in ("original", *pipelines)}
    for _ in range(repeats):
        for variant, done in runs.items():
            side, _, mode = variant.partition("_")
            taylorseer, latents = mode == "taylorseer", folder / f"{variant}.npy"
            if side in pipelines:
                done.append(draw_ours(pipelines[side], job, taylorseer, latents))
            else:
                done.append(original.draw(job.message(taylorseer, latents)))
    medians = {variant: statistics.median(run["seconds"] for run in done) for variant, done in runs.items()}
    steps = {variant: statistics.median(s for run in done for s in run["steps_s"]) for variant, done in runs.items()}
    return {
        "median_s": _rounded(medians),
        "seconds": {variant: [round(run["seconds"], 3) for run in done] for variant, done in runs.items()},
        "steps_s": {variant: [[round(s, 3) for s in run["steps_s"]] for run in done] for variant, done in runs.items()},
        "median_step_s": _rounded(steps),
        "stages_s": _rounded(runs["ours_exact"][-1]["stages_s"]),
        "ratios": _rounded({name: medians[slow] / medians[fast] for name, (fast, slow) in _ratios(pipelines).items()}),
        "latents_max_difference": {mode: _difference(folder, mode) for mode in MODES},
        "latents_relative_error": {v: _relative_error(folder, v) for v in runs if not v.startswith("original")},
    }


def _ratios(pipelines: Mapping[str, Pipeline]) -> dict[str, tuple[str, str]]:
    others = [f"{side}_{mode}" for side in pipelines if side != "ours" for mode in MODES]
    return RATIOS | {variant: (variant, "original_exact") for variant in others}


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


def _difference(folder: Path, mode: str) -> float:
    ours, theirs = (np.load(folder / f"{side}_{mode}.npy") for side in ("ours", "original"))
    return float(np.abs(ours - theirs).max())


def _relative_error(folder: Path, variant: str) -> float:
    """Of the L2 norm, against the original in the same mode."""
    ours, theirs = (np.load(folder / f"{name}.npy") for name in (variant, f"original_{variant.partition('_')[2]}"))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


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
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    packages = ("omnigen2-rt", "onnxruntime", "openvino", "numpy")
    versions = {package: installed_version(package) for package in packages}
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "versions": versions}


def table(tasks: dict[str, Any]) -> str:
    lines = [f"{'':16}{'':28}{'seconds':>9}{'a step':>9}"]
    for task, found in tasks.items():
        seconds, steps = found["median_s"], found["median_step_s"]
        lines += [f"{task:16}{variant:28}{seconds[variant]:9.2f}{steps[variant]:9.3f}" for variant in seconds]
        lines += [f"{task:16}{name:28} {ratio:.2f} x faster" for name, ratio in found["ratios"].items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="the original's repository")
    parser.add_argument("--original-python", required=True, help="an interpreter with its requirements")
    parser.add_argument("--configuration", type=Path, default=HERE / "configuration")
    parser.add_argument("--work", type=Path, help="where the checkpoint and the bundle are kept; a temporary folder otherwise")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--also", nargs="*", default=[], metavar="BACKEND:PRECISION", help="further backends of ours")
    parser.add_argument("--json", type=Path, help="also write the JSON document here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        report = run(given, given.work or folder, folder)
    print(table(report["tasks"]))
    text = json.dumps(report, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text + "\n", encoding="utf-8")


def run(given: argparse.Namespace, work: Path, folder: Path) -> dict[str, Any]:
    """The whole benchmark, after one short unmeasured drawing on each side."""
    checkpoint, bundle = make_bundle(given.configuration, work)
    before = os.getloadavg()
    original = Original(given.original_python, given.original, checkpoint, given.threads)
    tasks = {}
    ways = {"ours": "ort-cpu:fp32"} | {way.replace(":", "-"): way for way in given.also}
    with ExitStack() as opened:
        pipelines = {}
        for name, way in ways.items():
            backend, _, precision = way.partition(":")
            pipeline = og.load(bundle, backend=backend, precision=precision or "auto", threads=given.threads)
            pipelines[name] = opened.enter_context(pipeline)
        for task in given.tasks:
            warm = make_job(task, given.size, 1, folder)
            original.draw(warm.message(False, folder / "warm.npy"))
            for pipeline in pipelines.values():
                draw_ours(pipeline, warm, False, folder / "warm.npy")
            job = make_job(task, given.size, given.steps, folder)
            tasks[task] = measure(pipelines, original, job, given.repeats, folder)
    original.close()
    loads = {"before": before, "after": os.getloadavg()}
    settings = {"size_px": given.size, "steps": given.steps, "repeats": given.repeats, "threads": given.threads}
    return {"machine": machine(), "load_averages": loads, "original": original.facts, "settings": settings, "tasks": tasks}


if __name__ == "__main__":
    main()
