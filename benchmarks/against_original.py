"""Our pipeline beside the original's own: seconds for a drawing and for an edit, exact and with TaylorSeer.

    python benchmarks/against_original.py --original PATH --original-python PYTHON [--steps 50] [--json FILE] [--only NAME …]

All draw the same picture with the same random weights on the same threads, each in a process of its own, and take turns after
every single step: on a machine whose speed changes from minute to minute, each gets its share of every minute. Who has no turn
waits for a line on a pipe. Seconds are a drawing's whole, from the prompt to the picture, waiting left out (of bare OpenVINO:
the transformer's alone); a ratio is the original's seconds over ours. `relative_error` is how far the latents lie from the
original's in float32. TaylorSeer's gain depends on the number of steps: only 50 show it. Prints a table; `--json FILE` keeps all
turns.
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
TASKS = {"text_to_image": 1.0, "editing": 2.0}  # and their image guidance
RIVALS = ("original fp32", "original bf16", "original bf16 compiled")
BARE = "bare OpenVINO bf16"
SCHEME = "int8"


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Who draws. backend: ours; none is the original. scheme: a quantized bundle. bare: the transformer's graph alone."""

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
    """One drawing, the same for all. Files: the noise (1, C, h, w) float32, and pictures for editing."""

    task: str
    size_px: int
    steps: int
    noise: Path
    images: tuple[Path, ...]

    def message(self, variant: Variant, latents: Path) -> dict[str, Any]:
        """As the workers take it; they leave the final latents in `latents`."""
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


class Contestant:
    """A worker process. Raises RuntimeError where it ends before it answers."""

    def __init__(self, variant: Variant, command: Sequence[str], threads: int) -> None:
        self.variant = variant
        self.turns_s: list[float] = []
        self.found: dict[str, Any] | None = None
        limits = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | limits
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.facts = self._answer()

    def start(self, message: dict[str, Any]) -> None:
        """The first turn of a drawing."""
        self.turns_s, self.found = [], None
        self._turn(json.dumps(message))

    def go_on(self) -> None:
        """The next turn, where the drawing isn't done."""
        if self.found is None:
            self._turn("go on")

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()

    def _turn(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `_answer` says who ended
            print(line, file=self._process.stdin, flush=True)
        answer = self._answer()
        self.turns_s.append(answer["seconds"])
        self.found = answer.get("found")

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise RuntimeError(f"{self.variant.name} ended with {self._process.returncode}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def make_bundles(configuration: Path, folder: Path, schemes: set[str | None]) -> tuple[Path, dict[str | None, Path]]:
    """The random checkpoint and its bundles by scheme, made where they are needed and don't exist yet."""
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


def command(variant: Variant, given: argparse.Namespace, checkpoint: Path, bundles: dict[str | None, Path]) -> list[str]:
    """How a variant's worker is started."""
    settings = {"precision": variant.precision, "threads": given.threads}
    if variant.backend is None:
        settings |= {"original": str(given.original), "checkpoint": str(checkpoint), "compiled": variant.compiled}
        return [given.original_python, str(HERE / "original_worker.py"), json.dumps(settings)]
    settings |= {"bundle": str(bundles[variant.scheme]), "backend": variant.backend, "bare": variant.bare}
    return [sys.executable, str(HERE / "our_worker.py"), json.dumps(settings)]


def contest(contestants: Sequence[Contestant], job: Job, folder: Path) -> None:
    """One drawing of each, a step at a time; who begins a round moves on with every round."""
    for contestant in contestants:
        contestant.start(job.message(contestant.variant, latents_file(folder, contestant.variant.name)))
    first = 0
    while any(contestant.found is None for contestant in contestants):
        first = (first + 1) % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            contestant.go_on()


def latents_file(folder: Path, variant: str) -> Path:
    return folder / f"{variant.replace(' ', '-')}.npy"


def summary(contestants: Sequence[Contestant], folder: Path) -> dict[str, Any]:
    """Seconds, ratios and distances of a contest that has ended, by variant."""
    by_name = {contestant.variant.name: contestant for contestant in contestants}
    return {name: _summary(contestant, by_name, folder) for name, contestant in by_name.items()}


def _summary(contestant: Contestant, by_name: dict[str, Contestant], folder: Path) -> dict[str, Any]:
    assert contestant.found is not None
    seconds = contestant.found["transformer_s"] if contestant.variant.bare else sum(contestant.turns_s)
    entry: dict[str, Any] = {
        "seconds": round(seconds, 3),
        "median_step_s": round(statistics.median(contestant.turns_s[1:-1]), 4),
        **contestant.found,
        "turns_s": [round(turn, 4) for turn in contestant.turns_s],
    }
    variant = contestant.variant
    if variant.bare:
        return entry
    entry["relative_error"] = _relative_error(folder, variant.name)
    if variant.backend is not None:
        rivals = {name: sum(by_name[name].turns_s) / seconds for name in RIVALS if name in by_name}
        entry["times_faster_than"] = {name: round(ratio, 3) for name, ratio in rivals.items()}
    if variant.name == "OpenVINO bf16" and BARE in by_name:
        bare = by_name[BARE].found
        assert bare is not None
        entry["transformer_over_bare"] = round(contestant.found["transformer_s"] / bare["transformer_s"], 3)
    return entry


def _relative_error(folder: Path, variant: str) -> float | None:
    """Of the L2 norm, against the original's float32; None where that didn't run."""
    wanted_file = latents_file(folder, RIVALS[0])
    if not wanted_file.exists():
        return None
    given, wanted = np.load(latents_file(folder, variant)), np.load(wanted_file)
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


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
    told = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith(("model name", "flags"))]
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    found = told[1].split() if len(told) > 1 else []
    able = [flag for flag in wanted if flag in found]
    return {"cpu": told[0] if told else platform.processor(), "cores": os.cpu_count(), "instructions": able}


def table(tasks: dict[str, Any]) -> str:
    """A line a variant: seconds, a step, how many times faster than each of the original's, and the error."""
    rivals = "".join(f"{name.removeprefix('original '):>15}" for name in RIVALS)
    lines = [f"{'':42}{'seconds':>9}{'a step':>9}{rivals}{'error':>10}"]
    for task, variants in tasks.items():
        for name, entry in variants.items():
            ratios = entry.get("times_faster_than", {})
            faster = "".join(f"{ratios[rival]:13.2f} x" if rival in ratios else " " * 15 for rival in RIVALS)
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
    parser.add_argument("--work", type=Path, help="where the checkpoint and the bundles are kept; a temporary folder otherwise")
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="also write everything here, after each task")
    given = parser.parse_args()
    if given.steps < 2:
        parser.error("--steps below 2 has no step that is neither the first nor the last")
    with tempfile.TemporaryDirectory() as temporary:
        report = run(given, given.work or Path(temporary), Path(temporary))
    print(table(report["tasks"]))


def run(given: argparse.Namespace, work: Path, folder: Path) -> dict[str, Any]:
    """The whole benchmark, after two unmeasured steps of each."""
    load_before = os.getloadavg()
    variants = [VARIANTS[name] for name in given.only]
    checkpoint, bundles = make_bundles(given.configuration, work, {variant.scheme for variant in variants})
    report: dict[str, Any] = {
        "benchmark": "against_original",
        "machine": machine(),
        "settings": {"size_px": given.size, "steps": given.steps, "threads": given.threads},
        "load_averages": {"before": load_before},
        "versions": {},
        "tasks": {},
    }
    with ExitStack() as stack:
        contestants = []
        for variant in variants:
            contestants.append(Contestant(variant, command(variant, given, checkpoint, bundles), given.threads))
            stack.callback(contestants[-1].close)
            report["versions"] |= contestants[-1].facts["versions"]
        for task in given.tasks:
            contest(contestants, make_job(task, given.size, 2, folder), folder)
            contest(contestants, make_job(task, given.size, given.steps, folder), folder)
            report["tasks"][task] = summary(contestants, folder)
            report["load_averages"][f"after {task}"] = os.getloadavg()
            if given.json:
                given.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
