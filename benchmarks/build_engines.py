"""The cost of building a bundle's engines with TensorRT for RTX, which needs no GPU: seconds, memory and sizes of each.

    python benchmarks/build_engines.py BUNDLE [--precision bf16] [--component NAME …] [--target sm89] [--memory-limit-gb 12]
        [--keep] [--json FILE] [-- OPTIONS OF omnigen2 build]

Each component is built by an `omnigen2 build` of its own, so that each peak of memory is one engine's, and the engine is deleted
after it was measured, unless --keep is given: those of the full-size model take 16 GB. BUNDLE may be of any form, a quantized one
too. With --memory-limit-gb the kernel kills a build that needs more (control groups of version 1, as root). On Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from watched_process import Watched, run_watched

from omnigen2_rt.commands.bench import machine_facts
from omnigen2_rt.commands.describe import installed_version
from omnigen2_rt.runtime.backends.tensorrt.records import EngineRecord, engine_folder, read_records
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import bundle_path

LIBRARY = "tensorrt-rtx"
PACKAGES = ("omnigen2-rt", "tensorrt-rtx-cu13", "onnx", "numpy")


def measure(
    bundle: Path, component: str, precision: str, options: list[str], limit_bytes: int | None = None, keep: bool = False
) -> dict[str, Any]:
    """One component's figures, or why it gave none. An engine that was there before is not measured and stays."""
    before = {record.name for record in _records(bundle, component, precision)}
    command = [sys.executable, "-m", "omnigen2_rt", "build", str(bundle), "--library", LIBRARY, "--component", component]
    watched = run_watched([*command, "--precision", precision, *options], limit_bytes)
    built = [record for record in _records(bundle, component, precision) if record.name not in before]
    figures: dict[str, Any] = _process_figures(watched)
    if watched.code or not built:
        figures["problem"] = watched.last_lines or f"it ended with {watched.code}"
        return figures
    figures |= _engine_figures(built[0])
    if not keep:
        for ending in ("json", "plan"):
            (engine_folder(bundle) / f"{built[0].name}.{ending}").unlink()
    return figures


def _records(bundle: Path, component: str, precision: str) -> list[EngineRecord]:
    return read_records(bundle, component, precision)[0]


def _process_figures(watched: Watched) -> dict[str, Any]:
    figures = {
        "process_s": round(watched.seconds, 1),
        "peak_resident_bytes": watched.peak_resident_bytes,
        "peak_anonymous_bytes": watched.peak_anonymous_bytes,
    }
    return figures if watched.limit_hits is None else {**figures, "limit_hits": watched.limit_hits}


def _engine_figures(record: EngineRecord) -> dict[str, Any]:
    names = ("attention", "weight_bytes", "scratch_bytes", "notes")
    return {
        "build_s": record.report["seconds"],
        "plan_bytes": record.size_bytes,
        **{name: record.report[name] for name in names},
    }


def total(engines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The whole bundle: sums of seconds, plans and weights, and the largest memory of any engine."""
    built = [figures for figures in engines.values() if "problem" not in figures]
    sums = {name: sum(figures[name] or 0 for figures in built) for name in ("build_s", "plan_bytes", "weight_bytes")}
    most = ("peak_resident_bytes", "peak_anonymous_bytes", "scratch_bytes")
    return {
        "built": len(built),
        "failed": len(engines) - len(built),
        "build_s": round(sums.pop("build_s"), 1),
        **sums,
        **{f"most_{name}": max((figures[name] or 0 for figures in built), default=0) for name in most},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="the bundle's folder, or nano")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--component", nargs="*", default=[], help="only these")
    parser.add_argument("--target", default="portable")
    parser.add_argument("--memory-limit-gb", type=float)
    parser.add_argument("--keep", action="store_true", help="keep the engines in the bundle")
    parser.add_argument("--json", type=Path, help="also write everything here, after each figure")
    parser.add_argument("options", nargs="*", help="more options of omnigen2 build, after --")
    wanted = parser.parse_args()
    bundle = Bundle.open(bundle_path(wanted.bundle))
    limit = None if wanted.memory_limit_gb is None else int(wanted.memory_limit_gb * 1e9)
    options = ["--target", wanted.target, *wanted.options]
    names = [graph.component for graph in bundle.manifest.graphs if graph.precision == wanted.precision]
    if unknown := [name for name in wanted.component if name not in names]:
        parser.error(f"the bundle has no {', '.join(unknown)} in {wanted.precision}; it has {', '.join(names) or 'nothing'}")
    report: dict[str, Any] = {
        "benchmark": "build_engines",
        "machine": {**machine_facts()["machine"], "cores": os.cpu_count(), "memory_bytes": _memory_bytes()},
        "versions": {name: installed_version(name) for name in PACKAGES},
        "load_averages": {"before": os.getloadavg()},
        "settings": {
            "bundle": bundle.path.name,
            "precision": wanted.precision,
            "memory_limit_bytes": limit,
            "options": options,
        },
        "engines": {},
    }
    for name in wanted.component or names:
        figures = measure(bundle.path, name, wanted.precision, options, limit, wanted.keep)
        report["engines"][name] = figures
        print(name, json.dumps(figures), flush=True)
        report["total"] = total(report["engines"])
        report["load_averages"]["after"] = os.getloadavg()
        if wanted.json:
            wanted.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print("total", json.dumps(report["total"]))


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
