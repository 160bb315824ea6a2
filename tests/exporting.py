"""Bundles of the golden checkpoints, exported once a session and only read by the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path

from omnigen2_rt.exporter.checkpoint import Checkpoint, mllm_locations
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.graphs import component_spec, write_component
from omnigen2_rt.exporter.trace import trace
from omnigen2_rt.plugins.omni_rope.torch_export import emit
from omnigen2_rt.reference.mllm import MLLM, MLLMConfig
from omnigen2_rt.reference.vision import VisionConfig
from omnigen2_rt.reference.weights import read_config
from omnigen2_rt.runtime.manifest import GraphSpec

GOLDENS = Path(__file__).resolve().parent / "data" / "goldens"


PRECISIONS = {"A": ("fp32", "fp16", "bf16"), "B": ("fp32",)}
"""The precisions in which the golden checkpoints are exported."""


def golden_bundles(folder: Path) -> None:
    """Export each golden checkpoint into `folder`/bundle-NAME."""
    for name, precisions in PRECISIONS.items():
        export_bundle(GOLDENS / name / "checkpoint", folder / f"bundle-{name}", precisions=precisions)


def golden_traces() -> Iterator[Callable[[], object]]:
    """A call for each graph of the golden bundles, which traces it; the VAE's come first, as they take longest."""
    for name, precisions in PRECISIONS.items():
        checkpoint = Checkpoint.open(GOLDENS / name / "checkpoint")
        for component, precision in product(reversed(COMPONENTS), precisions):
            if (component.part, precision) == ("vae", "fp16"):
                continue  # computes in fp32
            build = partial(checkpoint.build, component.part, emit)
            yield partial(trace, component, checkpoint.config_of(component), build, precision)


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
