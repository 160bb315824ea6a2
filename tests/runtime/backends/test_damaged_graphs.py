"""Graphs that aren't what the bundle states: one error, whatever the engine raises."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.manifest import GraphSpec

COMPONENT = "velocity_head"
BACKENDS = ["ort-cpu", "openvino"]
SIZES = {"latent_height": 4, "latent_width": 4, "image_tokens": 4, "batch": 1}


def with_graph(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle, its graph stated otherwise."""
    graph = bundle.graph(COMPONENT, "fp32")
    graphs = tuple(replace(each, **changes) if each is graph else each for each in bundle.manifest.graphs)
    return Bundle(bundle.path, replace(bundle.manifest, graphs=graphs))


def run(bundle: Bundle, backend_name: str) -> None:
    """Open the graph and run it with ones."""
    backend, graph = open_backend(bundle, backend_name, "fp32", 1), bundle.graph(COMPONENT, "fp32")
    sizes = {name: [size if isinstance(size, int) else SIZES[size] for size in spec.shape] for name, spec in graph.inputs.items()}
    outputs = backend.open(COMPONENT).run({name: np.ones(sizes[name], graph.inputs[name].dtype) for name in sizes})
    assert {name: backend.to_host(output).ndim for name, output in outputs.items()} == {"velocity": 4}


@pytest.mark.parametrize("backend", BACKENDS)
def test_graph_as_stated_runs(bundle: Bundle, backend: str) -> None:
    run(bundle, backend)


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    first = next(iter(values))
    return {"other" if name == first else name: value for name, value in values.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda graph: {"outputs": renamed(graph.outputs)}, "has the outputs velocity where the bundle states other"),
        (lambda graph: {"outputs": {}}, "has the outputs velocity where the bundle states none"),
        (lambda graph: {"inputs": renamed(graph.inputs)}, "has the inputs .*where the bundle states other"),
        (lambda graph: {"inputs": dict(list(graph.inputs.items())[1:])}, "has the inputs "),
        (
            lambda graph: {"inputs": {name: replace(spec, dtype="float16") for name, spec in graph.inputs.items()}},
            "velocity_head failed on",
        ),
        (
            lambda graph: {"inputs": {name: replace(spec, shape=(1,)) for name, spec in graph.inputs.items()}},
            "velocity_head failed on",
        ),
    ],
    ids=["output", "no outputs", "input", "fewer inputs", "type", "rank"],
)
def test_graph_of_other_inputs_or_outputs_is_an_error(
    bundle: Bundle, backend: str, change: Callable[[GraphSpec], dict[str, Any]], reason: str
) -> None:
    """Engines raised errors of their own, and OpenVINO ran with an input that was never given."""
    with pytest.raises(BackendError, match=reason if backend == "openvino" else "velocity_head failed on"):
        run(with_graph(bundle, **change(bundle.graph(COMPONENT, "fp32"))), backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_graph_of_damaged_bytes_is_an_error_or_runs(bundle: Bundle, backend: str) -> None:
    path: Path = bundle.path / bundle.graph(COMPONENT, "fp32").file
    content, outcomes, rng = path.read_bytes(), set[str](), random.Random(5)
    for _ in range(60):
        damaged = bytearray(content)
        at = rng.randrange(len(damaged))
        if rng.random() < 0.7:
            damaged[at] = rng.randrange(256)
        else:
            del damaged[at : at + rng.randint(1, 30)]
        path.write_bytes(damaged)
        try:
            run(bundle, backend)
            outcomes.add("ran")
        except BackendError as error:
            assert len(str(error).splitlines()) == 1
            outcomes.add("refused")
    assert "refused" in outcomes
