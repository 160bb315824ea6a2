"""Sections of `rtx_engines.py`: the card itself, and which engines it accepts."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

from guarded import Figures
from rtx_bench import LIBRARY, NANO_LIMITS, RTXBench

from omnigen2_rt.exporter.engines.build import build_engines
from omnigen2_rt.exporter.engines.options import BuildOptions, EngineOptions
from omnigen2_rt.runtime.backends.tensorrt.cuda import Device
from omnigen2_rt.runtime.backends.tensorrt.engines import find_engine
from omnigen2_rt.runtime.backends.tensorrt.library import cuda_problem, make_log, take_errors
from omnigen2_rt.runtime.backends.tensorrt.records import TARGETS, EngineRecord, engine_folder
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.files.hashes import file_hash

COMPONENT, PRECISION = "velocity_head", "bf16"
"""The engine that is asked about: one that is built in a second."""


def card(bench: RTXBench, figures: Figures) -> None:
    """The GPU, its driver and its memory, and whether TensorRT for RTX runs on it."""
    figures.add(library_problem=LIBRARY.problem())
    if (problem := cuda_problem()) is not None:
        figures.add(problem=problem)
        return
    device = Device()
    free, total = device.memory_bytes()
    figures.add(
        gpu=device.name(),
        compute_capability=device.compute_capability(),
        driver=device.driver(),
        free_bytes=free,
        total_bytes=total,
    )


def validity(bench: RTXBench, figures: Figures) -> None:
    """The library's verdict on a portable engine, on one for each kind of GPU, and on bytes that are none."""
    trt = LIBRARY.load()
    runtime, log = trt.Runtime(make_log(trt)), make_log(trt)

    def ask(part: Figures, header: bytes) -> None:
        log.errors.clear()
        verdict, found = runtime.get_engine_validity(header)
        names = trt.EngineInvalidityDiagnostics.__members__.items()
        reasons = [name for name, value in names if int(found) & int(value)]
        part.add(validity=verdict.name, diagnostics=reasons)
        if log.errors:
            part.add(message=take_errors(log))

    with figures.part("no engine") as part:
        ask(part, bytes(runtime.engine_header_size))
    for target in TARGETS:
        with figures.part(target) as part:
            folder, record = _small_engine(bench, "validity", target)
            plan = (engine_folder(folder) / record.plan).read_bytes()
            part.add(plan_bytes=len(plan))
            ask(part, plan[: runtime.engine_header_size])


def damaged(bench: RTXBench, figures: Figures) -> None:
    """Engines that were truncated, altered or forged, which must be refused before the library sees them."""
    bundle, record = _small_engine(bench, "damaged", "portable")
    whole = (engine_folder(bundle) / record.plan).read_bytes()
    middle = len(whole) // 2
    altered = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    cases: dict[str, tuple[bytes, bool]] = {
        "whole": (whole, False),
        "truncated": (whole[:middle], False),
        "altered": (altered, False),
        "altered, and its record too": (altered, True),
    }
    for name, (plan, forges_record) in cases.items():
        with figures.part(name) as part:
            refusal = _refusal(bundle, record, plan, forges_record)
            part.add(refusal=refusal, as_expected=(refusal is None) == (plan == whole))


def _small_engine(bench: RTXBench, name: str, target: str) -> tuple[Path, EngineRecord]:
    """A copy of nano with one engine. Compute capability 7.5 has no bf16."""
    precision = "fp16" if target == "sm75" else PRECISION
    folder = bench.work / f"{name}-{precision}"
    if not folder.exists():
        shutil.copytree(bench.nano(precision), folder, ignore=shutil.ignore_patterns("engines"))
    options = BuildOptions(
        library=LIBRARY.name,
        precision=precision,
        components=(COMPONENT,),
        limits=NANO_LIMITS,
        engine=EngineOptions(target=target),
    )
    report = build_engines(folder, options)
    return folder, (report.built or report.reused)[0]


def _refusal(bundle: Path, record: EngineRecord, plan: bytes, forges_record: bool) -> str | None:
    """Why an engine with these bytes in its plan is refused, or None where it isn't. The whole one is put back."""
    file, record_file = engine_folder(bundle) / record.plan, engine_folder(bundle) / f"{record.name}.json"
    whole, true_record = file.read_bytes(), record_file.read_bytes()
    try:
        file.write_bytes(plan)
        if forges_record:
            forged = replace(record, size_bytes=len(plan), sha256=file_hash(file))
            record_file.write_text(json.dumps(asdict(forged)), encoding="utf-8")
        find_engine(Bundle.open(bundle), COMPONENT, PRECISION, LIBRARY.machine())
    except BackendError as error:
        return str(error)
    finally:
        file.write_bytes(whole)
        record_file.write_bytes(true_record)
    return None
