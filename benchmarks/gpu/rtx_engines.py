"""Everything that TensorRT for RTX is expected to do, tried and measured on one NVIDIA RTX card in less than ten minutes.

    pip install -e ".[rtx,cpu,export]"
    python benchmarks/gpu/rtx_engines.py --json rtx_4090.json

Needs a GPU of compute capability 7.5, 8.0, 8.6, 8.9, or 12.0 and newer. The CUDA build of PyTorch is compared with where it is
installed; ONNX Runtime's CUDA provider likewise. `--only NAME …` runs some of the sections:

SECTIONS

A section is a process of its own. What fails there becomes its "problem" in the JSON document, which is written after each
section, and the rest goes on. Bundles and engines are kept in --work; a second run finds them there.

Without such a GPU the sections that need one say so. `--backend ort-cpu --precisions fp32 --size 64 --layers 1` tries the program
itself on a CPU: every other section then runs on ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rtx_card
import rtx_full_size
import rtx_nano
from guarded import Figures, json_figures, problem_text, run_section
from rtx_bench import LIBRARY, RTXBench

from omnigen2_rt.commands.bench import machine_facts
from omnigen2_rt.commands.describe import installed_version

PACKAGES = (
    "omnigen2-rt", "numpy", "tensorrt-rtx-cu13", "cuda-bindings", "polygraphy", "torch", "onnx", "onnxruntime", "onnxruntime-gpu",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section.

    run: measures.
    needs_gpu: it has no meaning without a GPU that the library runs on.
    """

    run: Callable[[RTXBench, Figures], None]
    needs_gpu: bool = False

    @property
    def title(self) -> str:
        return (self.run.__doc__ or "").splitlines()[0]


SECTIONS: dict[str, Section] = {
    "card": Section(run=rtx_card.card),
    "validity": Section(run=rtx_card.validity),
    "damaged": Section(run=rtx_card.damaged),
    "nano_engines": Section(run=rtx_nano.nano_engines),
    "nano_pictures": Section(run=rtx_nano.nano_pictures),
    "first_run": Section(run=rtx_nano.first_run, needs_gpu=True),
    "recorded": Section(run=rtx_nano.recorded, needs_gpu=True),
    "stripped": Section(run=rtx_nano.stripped, needs_gpu=True),
    "memory_limit": Section(run=rtx_nano.memory_limit),
    "step": Section(run=rtx_full_size.step),
    "weight_streaming": Section(run=rtx_full_size.weight_streaming, needs_gpu=True),
    "nano_compare": Section(run=rtx_nano.nano_compare),
    "nano_scores": Section(run=rtx_nano.nano_scores),
}
"""The sections in the order in which they run: what is quick and what others build on comes first."""


def main() -> None:
    options = _parser().parse_args()
    if options.section:
        _run_here(options)
        return
    print(json.dumps(measure(options), indent=1))


def _run_here(options: argparse.Namespace) -> None:
    """Runs one section in this process."""
    figures = json_figures(options.json)
    section = SECTIONS[options.section]
    if section.needs_gpu and (problem := LIBRARY.problem()) is not None:
        figures.add(problem=f"needs a GPU that TensorRT for RTX runs on: {problem}")
        return
    try:
        section.run(_bench(options), figures)
    except Exception as error:
        figures.add(problem=problem_text(error))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the sections. Returns the report, which `options.json` holds after each section."""
    with tempfile.TemporaryDirectory() as temporary:
        options.work = options.work or Path(temporary)
        options.work.mkdir(parents=True, exist_ok=True)
        report: dict[str, Any] = {
            "benchmark": "rtx_engines",
            **machine_facts(),
            "versions": {name: installed_version(name) for name in PACKAGES},
            "settings": _settings(options),
            "sections": {},
        }
        started = time.monotonic()
        for name in options.only or SECTIONS:
            left = 60 * options.minutes - (time.monotonic() - started)
            report["sections"][name] = _section(name, options, left, Path(temporary) / "figures.json")
            _say(name, report["sections"][name])
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _section(name: str, options: argparse.Namespace, left_s: float, file: Path) -> dict[str, Any]:
    if left_s <= 0:
        return {"problem": f"left out, because {options.minutes:g} minutes were over: raise --minutes, or --only {name}"}
    command = [sys.executable, __file__, "--section", name, "--json", str(file), "--work", str(options.work)]
    for option in ("backend", "precisions", "size", "samples", "rounds", "layers", "configuration"):
        value = getattr(options, option)
        if value is not None:
            command += [f"--{option}", *map(str, value if isinstance(value, list) else [value])]
    return run_section(command, file, left_s)


def _say(name: str, figures: dict[str, Any]) -> None:
    print(f"{name}: {figures.get('problem', 'done')} ({figures.get('section_s', 0)} s)", file=sys.stderr, flush=True)


def _bench(options: argparse.Namespace) -> RTXBench:
    return RTXBench(work=options.work, **_settings(options))


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "backend": options.backend,
        "precisions": options.precisions,
        "size_px": options.size,
        "samples": options.samples,
        "rounds": options.rounds,
        "layers": options.layers,
        "configuration": options.configuration and str(options.configuration),
    }


def _parser() -> argparse.ArgumentParser:
    titles = "\n".join(f"    {name:<17} {section.title}" for name, section in SECTIONS.items())
    description = (__doc__ or "").replace("SECTIONS", titles)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the JSON document here after each section")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), metavar="NAME", help="only these sections")
    parser.add_argument("--minutes", type=float, default=10, help="sections that would start later are left out; by default 10")
    parser.add_argument("--work", type=Path, help="keep bundles and engines in this folder; by default in a temporary one")
    parser.add_argument("--backend", default=LIBRARY.name, help="ort-cpu tries the program without a GPU")
    parser.add_argument("--precisions", nargs="+", default=["bf16", "fp16"], help="nano's; the first is also the step's")
    parser.add_argument("--size", type=int, default=1024, help="height and width of the full-size step's picture, in pixels")
    parser.add_argument("--samples", type=int, default=200, help="of each of nano's abilities")
    parser.add_argument("--rounds", type=int, default=20, help="measured runs of each side; the median counts")
    parser.add_argument("--layers", type=int, help="of the full-size transformer; by default as many as fit")
    parser.add_argument("--configuration", type=Path, help="of another model than the full-size one, for trying this program")
    parser.add_argument("--section", choices=tuple(SECTIONS), help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
