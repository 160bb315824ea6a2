"""Sections of `rtx_engines.py` with nano: its engines' pictures, scores and first runs, and the backend's options."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from guarded import Figures
from rtx_bench import LIBRARY, NANO_LIMITS, RTXBench, engine_figures, in_turns, median_ms, timed

import omnigen2_rt as og
from omnigen2_rt.exporter.verify.difference import psnr, relative_error
from omnigen2_rt.nano.abilities import ABILITIES
from omnigen2_rt.nano.evaluation import Settings, evaluate
from omnigen2_rt.nano.world.scenes import SIDE_PX
from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.tensorrt.backend import SPECIALIZATIONS
from omnigen2_rt.runtime.backends.tensorrt.kernel_cache import SUFFIX
from omnigen2_rt.runtime.backends.tensorrt.records import engine_folder
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.pipeline import NANO, Pipeline

STEPS = 20
FIRST_RUN = """
import json, sys, time
started = time.perf_counter()
import omnigen2_rt as og
bundle, precision, specialization, size, steps = sys.argv[1:]
request = og.Request(prompt="a red circle", height_px=int(size), width_px=int(size), steps=int(steps))
with og.load(bundle, backend="tensorrt-rtx", precision=precision, specialization=specialization) as pipeline:
    opened = time.perf_counter()
    pipeline.generate(request)
    drawn = time.perf_counter()
    pipeline.generate(request)
    again = time.perf_counter()
print(json.dumps({"open_s": opened - started, "first_picture_s": drawn - opened, "second_picture_s": again - drawn}))
"""


def nano_engines(bench: RTXBench, figures: Figures) -> None:
    """nano's engines in each precision: seconds, sizes, attention. Needs no GPU."""
    for precision in bench.precisions:
        with figures.part(precision) as part:
            report = replace(bench, backend=LIBRARY.name).build_nano(precision)
            assert report is not None, "this backend has engines"
            records = [*report.built, *report.reused]
            part.add(engines={record.key["component"]: engine_figures(record) for record in records})
            part.add(plan_bytes=sum(record.size_bytes for record in records))


def nano_pictures(bench: RTXBench, figures: Figures) -> None:
    """A drawing and an edit of nano on the engines, compared with those of ONNX Runtime on the CPU in fp32."""
    with og.load(bench.nano("fp32"), backend="ort-cpu", precision="fp32") as pipeline:
        expected = {name: pipeline.generate(request) for name, request in _requests().items()}
    for precision in bench.precisions:
        with figures.part(precision) as part:
            bench.build_nano(precision)
            with og.load(bench.nano(precision), backend=bench.backend, precision=precision) as pipeline:
                for name, request in _requests().items():
                    part.add(**{name: _picture_figures(expected[name], pipeline.generate(request))})


def _requests() -> dict[str, og.Request]:
    text = og.Request(prompt="a red circle", height_px=SIDE_PX, width_px=SIDE_PX, steps=STEPS)
    columns, rows = np.meshgrid(np.arange(SIDE_PX), np.arange(SIDE_PX))
    image = np.stack([2 * rows, 2 * columns, rows + columns], -1).astype(np.uint8)
    return {"drawing": text, "editing": replace(text, prompt="make it blue", images=(image,), image_guidance=1.5)}


def _picture_figures(expected: og.Result, actual: og.Result) -> dict[str, Any]:
    pixels = [np.asarray(result.images[0]) for result in (expected, actual)]
    return {
        "latents_relative_error": relative_error(expected.latents, actual.latents),
        "psnr_db": psnr(*pixels),
        "seconds": sum(actual.timings.values()),
    }


def nano_compare(bench: RTXBench, figures: Figures) -> None:
    """`omnigen2 compare`: each component and drawings beside PyTorch, with the tolerances of the tests."""
    from omnigen2_rt.exporter.verify.compare import compare

    for precision in bench.precisions:
        with figures.part(precision) as part:
            bench.build_nano(precision)
            report = compare(NANO, bench.nano(precision), backend=bench.backend, precision=precision)
            part.add(**json.loads(report.to_json()))


def nano_scores(bench: RTXBench, figures: Figures) -> None:
    """nano's abilities, as `omnigen2 eval nano` scores them, on the engines."""
    settings = Settings(samples=bench.samples)
    figures.add(samples=bench.samples)
    for precision in bench.precisions:
        with figures.part(precision) as part:
            bench.build_nano(precision)
            with og.load(bench.nano(precision), backend=bench.backend, precision=precision) as pipeline:
                for ability in ABILITIES:
                    (score,) = evaluate(pipeline, settings, (ability,))
                    part.add(**{score.name: score.to_json()})


def first_run(bench: RTXBench, figures: Figures) -> None:
    """Seconds of a new process up to its first pictures, without and with kept kernels, by specialization."""
    precision = bench.precisions[0]
    bench.build_nano(precision)
    bundle = bench.nano(precision)
    for specialization in SPECIALIZATIONS:
        with figures.part(specialization) as part:
            for file in _kept_kernels(bundle):
                file.unlink()
            part.add(**{"without kept kernels": _first_run(bundle, precision, specialization)})
            part.add(kept_bytes=sum(file.stat().st_size for file in _kept_kernels(bundle)))
            part.add(**{"with kept kernels": _first_run(bundle, precision, specialization)})


def _kept_kernels(bundle: Path) -> list[Path]:
    return list(engine_folder(bundle).glob(f"*{SUFFIX}"))


def _first_run(bundle: Path, precision: str, specialization: str) -> dict[str, float]:
    arguments = [str(bundle), precision, specialization, str(SIDE_PX), str(STEPS)]
    ended = subprocess.run([sys.executable, "-c", FIRST_RUN, *arguments], capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"a process ended with {ended.returncode}: {ended.stderr.strip()[-500:]}")
    seconds: dict[str, float] = json.loads(ended.stdout)
    return seconds


def recorded(bench: RTXBench, figures: Figures) -> None:
    """A drawing's milliseconds with and without recorded runs (CUDA graphs), in turns; the pictures must be the same."""
    precision = bench.precisions[0]
    bench.build_nano(precision)
    bundle = Bundle.open(bench.nano(precision))
    graphs = tuple(replace(graph, repeats_shapes=False) for graph in bundle.manifest.graphs)
    plain = Bundle(bundle.path, replace(bundle.manifest, graphs=graphs))
    request = _requests()["drawing"]
    pipelines = {
        name: Pipeline(opened, open_backend(opened, bench.backend, precision))
        for name, opened in (("recorded", bundle), ("not recorded", plain))
    }
    latents = {name: [pipeline.generate(request).latents for _ in range(3)][-1] for name, pipeline in pipelines.items()}
    times = in_turns({name: lambda drawn=pipeline: drawn.generate(request) for name, pipeline in pipelines.items()}, bench.rounds)
    figures.add(median_ms={name: median_ms(seconds) for name, seconds in times.items()}, steps=STEPS)
    figures.add(relative_difference=relative_error(latents["not recorded"], latents["recorded"]))
    for pipeline in pipelines.values():
        pipeline.close()


def stripped(bench: RTXBench, figures: Figures) -> None:
    """Engines without weights, which take them from the bundle when they are loaded: sizes, seconds, the same pictures."""
    precision, request = bench.precisions[0], _requests()["drawing"]
    copy = bench.work / "nano-stripped"
    if not copy.exists():
        shutil.copytree(bench.nano(precision), copy, ignore=shutil.ignore_patterns("engines"))
    latents = {}
    for name, bundle, options in (("whole", bench.nano(precision), {}), ("stripped", copy, {"strip_plan": True})):
        with figures.part(name) as part:
            report = bench.build(bundle, precision, NANO_LIMITS, **options)
            assert report is not None, "the section needs a GPU and engines"
            part.add(plan_bytes=sum(record.size_bytes for record in (*report.built, *report.reused)))
            with og.load(bundle, backend=bench.backend, precision=precision) as pipeline:
                part.add(first_picture_s=timed(lambda opened=pipeline: opened.generate(request)))
                latents[name] = pipeline.generate(request).latents
    if len(latents) == 2:
        figures.add(relative_difference=relative_error(latents["whole"], latents["stripped"]))


def memory_limit(bench: RTXBench, figures: Figures) -> None:
    """Drawings below a limit of open weights, which closes components and must not change a picture."""
    precision, request = bench.precisions[0], _requests()["drawing"]
    bench.build_nano(precision)
    graphs = [graph for graph in Bundle.open(bench.nano(precision)).manifest.graphs if graph.precision == precision]
    limit = max(graph.resident_bytes for graph in graphs)
    settings = {"bundle": bench.nano(precision), "backend": bench.backend, "precision": precision}
    latents = {}
    for name, limit_bytes in (("unlimited", None), ("limited", limit)):
        with og.load(**settings, memory_limit_bytes=limit_bytes) as pipeline:
            pipeline.generate(request)
            latents[name] = pipeline.generate(request).latents
            sessions = pipeline.components.sessions
            entry = {"limit_bytes": limit_bytes, "most_open_bytes": sessions.most_bytes, "openings": len(sessions.openings)}
            entry["opening_s"] = sum(opening.seconds for opening in sessions.openings)
            figures.add(**{name: entry})
    figures.add(relative_difference=relative_error(latents["unlimited"], latents["limited"]))

