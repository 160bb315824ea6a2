"""Bundles of the golden checkpoints, exported once a session and only read by the tests."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from omnigen2_rt.exporter.checkpoint import mllm_locations
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.graphs import component_spec, write_component
from omnigen2_rt.exporter.weights.lora import Lora
from omnigen2_rt.reference.mllm import MLLM, MLLMConfig
from omnigen2_rt.reference.vision import VisionConfig
from omnigen2_rt.reference.weights import read_config
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.manifest import MANIFEST, GraphSpec

GOLDENS = Path(__file__).resolve().parent / "data" / "goldens"


def exported_bundle(checkpoint: Path, tmp: Path, lora: Lora | None = None) -> Path:
    """Export `checkpoint` in fp32 to a new folder under `tmp`; returns the bundle."""
    bundle = tmp / f"bundle-{checkpoint.parent.name}{'-lora' if lora else ''}"
    export_bundle(checkpoint, bundle, precisions=("fp32",), lora=lora)
    return bundle


def golden_bundles(tmp: Path) -> dict[str, Path]:
    """Config A in fp32, fp16 and bf16, B in fp32. Exporting keeps one core busy, so a second process takes half of it."""
    checkpoint, halves = GOLDENS / "A" / "checkpoint", tmp / "halves"
    command = [sys.executable, "-m", "omnigen2_rt", "export", checkpoint, halves, "--precision", "fp16", "--precision", "bf16"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as beside:
        bundles = {name: exported_bundle(GOLDENS / name / "checkpoint", tmp) for name in ("A", "B")}
    assert beside.returncode == 0
    manifests = [Bundle.open(bundle).manifest for bundle in (bundles["A"], halves)]
    for graph in halves.glob("*.onnx"):
        graph.rename(bundles["A"] / graph.name)
    joined = replace(manifests[0], graphs=(*manifests[0].graphs, *manifests[1].graphs))
    (bundles["A"] / MANIFEST).write_text(joined.to_json(), encoding="utf-8")
    return bundles


def exported_mllm(
    folder: Path, precision: str = "fp32"
) -> tuple[MLLMConfig, VisionConfig, tuple[GraphSpec, ...]]:
    """The graphs of `folder`/mllm alone, written into `folder`, and the configs that they were made from."""
    stored = read_config(folder / "mllm")
    mllm, vision = MLLMConfig.from_json(stored), VisionConfig.from_json(stored)
    locations = mllm_locations(folder / "mllm", mllm)
    graphs = []
    for component in (entry for entry in COMPONENTS if entry.part == "mllm"):
        config = vision if component.config == "vision" else mllm
        build = partial(MLLM, mllm, vision)
        write_component(component, config, build, locations, folder, precision, precision)
        graphs.append(component_spec(component, config, folder, precision, precision))
    return mllm, vision, tuple(graphs)
