"""Bundles of the golden checkpoints, exported once a session and only read by the tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from omnigen2_rt.exporter import export
from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.components import COMPONENTS
from omnigen2_rt.exporter.export import export_bundle
from omnigen2_rt.exporter.trace import trace
from omnigen2_rt.plugins.omni_rope.torch_export import emit
from omnigen2_rt.reference.mllm import MLLMConfig
from omnigen2_rt.reference.vision import VisionConfig
from omnigen2_rt.reference.weights import mllm_parameter_name, read_config, tensor_locations
from omnigen2_rt.runtime.manifest import GraphSpec

GOLDENS = Path(__file__).resolve().parent / "data" / "goldens"


PRECISIONS = {"A": ("fp32", "fp16", "bf16"), "B": ("fp32",)}
"""What the golden checkpoints are exported in."""


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


def exported_mllm(folder: Path, precision: str = "fp32") -> tuple[Checkpoint, tuple[GraphSpec, ...]]:
    """The graphs of `folder`/mllm alone, written into `folder`: a checkpoint in which nothing draws."""
    stored = read_config(folder / "mllm")
    config = MLLMConfig.from_json(stored)
    found = {mllm_parameter_name(name, config): place for name, place in tensor_locations(folder / "mllm").items()}
    locations = {"mllm": {name: place for name, place in found.items() if name is not None}}
    nothing: Any = None
    checkpoint = Checkpoint(
        path=folder, name="random", transformer=nothing, vae=nothing, vae_overflows_in_fp16=False, mllm=config,
        vision=VisionConfig.from_json(stored), dynamic_time_shift=False, locations=locations,
    )  # fmt: skip
    graphs = []
    for component in (entry for entry in COMPONENTS if entry.part == "mllm"):
        name = f"{component.name}.{precision}.onnx"
        export._write_graph(checkpoint, component, precision, locations["mllm"], folder, name)
        graphs.append(export._graph_spec(checkpoint, component, precision, folder, name))
    return checkpoint, tuple(graphs)
