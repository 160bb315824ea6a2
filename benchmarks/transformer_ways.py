"""The transformer alone, in the ways in which its graph can be run on this CPU, taking turns: what each of our choices is worth.

    python benchmarks/transformer_ways.py BUNDLE [--int8 BUNDLE] [--int8-weights BUNDLE] [--rounds 40] [--json FILE]

Prints each way's median seconds, the median of its quotient with the first way's in the same round, and how far its outputs lie
from the first way's (L2, relative). The other bundles are what `omnigen2 quantize` makes of the first one. What a name says after
its comma is not what the runtime does. Inputs are random, as many tokens as a picture of `--size` and a prompt have. All ways are
open at once, so it wants memory for some eleven transformers; and a CPU that computes bf16.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxruntime

from omnigen2_rt.commands.describe import installed_version
from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.openvino import rewrites
from omnigen2_rt.runtime.backends.openvino.compiled_models import CompiledModels
from omnigen2_rt.runtime.backends.openvino.rewrite_reports import RewriteReport
from omnigen2_rt.runtime.bundle import Bundle

TEXT_TOKENS = 26
PACKAGES = ("omnigen2-rt", "onnxruntime", "openvino", "numpy")


@dataclass(frozen=True, kw_only=True)
class Way:
    """bundle: which of the program's arguments. without: a rewrite of OpenVINO's model that is left out, by its function's name.

    graph: makes another graph to open. session_options: ONNX Runtime's.
    """

    bundle: str
    backend: str
    precision: str
    without: str | None = None
    graph: Callable[[Bundle], bytes] | None = None
    session_options: Mapping[str, str] = field(default_factory=dict)


def per_token(bundle: Bundle) -> bytes:
    """The `int8` graph with the scale of what a product reads found at each run, one a token, instead of the calibrated one."""
    model = _transformer(bundle)
    for product in [node for node in model.graph if node.op_type == "MatMul"]:
        value, weight = (read.producer() for read in product.inputs)
        if [node.op_type for node in (value, weight) if node is not None] != ["DequantizeLinear"] * 2:
            continue
        model.graph.insert_before(product, nodes := _per_token(value.inputs[0].producer().inputs[0], *weight.inputs[:2]))
        ir.convenience.replace_all_uses_with(product.outputs[0], nodes[-1].outputs[0], replace_graph_outputs=True)
        model.graph.remove(product, safe=True)
    passes.RemoveUnusedNodesPass()(model)
    passes.NameFixPass()(model)
    return ir.to_proto(model).SerializeToString()


def _per_token(value: ir.Value, codes: ir.Value, scales: ir.Value) -> list[ir.Node]:
    """The nodes of a product of 8-bit numbers; `value` is rounded to 255 steps around 128, as its fastest kernel wants."""
    nodes: list[ir.Node] = []

    def of(kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        nodes.append(ir.node(kind, inputs, attributes=attributes))
        return nodes[-1].outputs[0]

    last, half = of("Constant", value_ints=[-1]), of("Constant", value_float=128.0)
    largest = of("Max", of("ReduceMax", of("Abs", value), last, keepdims=1), of("Constant", value_float=1e-9))
    step = of("Div", largest, of("Constant", value_float=127.0))
    rounded = of("Cast", of("Add", of("Round", of("Div", value, step)), half), to=ir.DataType.UINT8.value)
    product = of("MatMulInteger", rounded, codes, of("Cast", half, to=ir.DataType.UINT8.value))
    of("Mul", of("Mul", of("Cast", product, to=ir.DataType.FLOAT.value), step), scales)
    return nodes


def _transformer(bundle: Bundle) -> ir.Model:
    return ir.load(bundle.path / bundle.graph("transformer", "fp32").file)


BF16 = Way(bundle="bundle", backend="openvino", precision="bf16")
INT8 = Way(bundle="int8", backend="openvino", precision="bf16")
ORT = Way(bundle="bundle", backend="ort-cpu", precision="fp32")
ORT_WEIGHTS = replace(ORT, bundle="int8_weights")
WAYS = {
    "OpenVINO bf16": BF16,
    "OpenVINO bf16, rotation as exported": replace(BF16, without="rotate_by_products"),
    "OpenVINO bf16, feed-forward in one piece": replace(BF16, without="split_feed_forward"),
    "OpenVINO bf16, rows as wide as exported": replace(BF16, without="align_products"),
    "OpenVINO int8": INT8,
    "OpenVINO int8, products joined": replace(INT8, without="take_products_apart"),
    "ONNX Runtime fp32": ORT,
    "ONNX Runtime int8": replace(ORT, bundle="int8"),
    "ONNX Runtime int8, a scale a token": replace(ORT, bundle="int8", graph=per_token),
    "ONNX Runtime int8-weights": ORT_WEIGHTS,
    "ONNX Runtime int8-weights, products in fp32": replace(
        ORT_WEIGHTS, session_options={"session.qdq_matmulnbits_accuracy_level": "1"}
    ),
}


@contextmanager
def changed(way: Way, bundle: Bundle) -> Iterator[None]:
    """Everything as the way wants it, while it opens its graph."""
    with ExitStack() as changes:
        for method in ("load", "store"):
            changes.enter_context(patch.object(CompiledModels, method, lambda *arguments: None))
        if way.without is not None:
            changes.enter_context(patch.object(rewrites, way.without, partial(left_out, way.without)))
        if way.graph is not None:
            changes.enter_context(opened_instead(bundle, way.graph(bundle)))
        changes.enter_context(patch.object(onnxruntime, "SessionOptions", partial(session_options, way.session_options)))
        yield


def left_out(name: str, model: Any) -> Any:
    """The result of a rewrite that leaves the model as it is."""
    report = RewriteReport(name, 0)
    return (report, []) if name == "split_feed_forward" else report


def session_options(entries: Mapping[str, str], make: Callable[[], Any] = onnxruntime.SessionOptions) -> Any:
    options = make()
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    return options


@contextmanager
def opened_instead(bundle: Bundle, graph: bytes) -> Iterator[None]:
    """Both forms of the transformer are this graph. It lies in the bundle for a moment, beside the weights that it names."""
    spec = bundle.graph("transformer", "fp32")
    with tempfile.NamedTemporaryFile(dir=bundle.path, suffix=".tmp.onnx") as file:
        file.write(graph)
        file.flush()
        name = Path(file.name).name
        with patch.object(Bundle, "graph", lambda self, component, precision: replace(spec, file=name, inlined=name)):
            yield


class Opened:
    """A way's session, its inputs and its times."""

    def __init__(self, way: Way, bundle: Bundle, threads: int, feeds: dict[str, np.ndarray]) -> None:
        self.backend = open_backend(bundle, way.backend, way.precision, threads)
        with changed(way, bundle):
            self.session = self.backend.open("transformer")
        self.feeds = {name: self.backend.to_device(array) for name, array in feeds.items()}
        self.seconds: list[float] = []

    def run(self) -> np.ndarray:
        started = time.perf_counter()
        outputs = self.session.run(self.feeds)
        self.seconds.append(time.perf_counter() - started)
        return self.backend.to_host(outputs["hidden_states"])


def measure(bundles: dict[str, Path], size_px: int, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """By way, of those whose bundles are there. The first two rounds warm up."""
    opened = {name: Bundle.open(path) for name, path in bundles.items()}
    feeds = inputs(opened["bundle"], size_px)
    ways = {name: Opened(way, opened[way.bundle], threads, feeds) for name, way in WAYS.items() if way.bundle in opened}
    outputs = {}
    order = list(ways)
    for _ in range(rounds + 2):
        for name in order:
            outputs[name] = ways[name].run()
        order.append(order.pop(0))  # another begins the next round
    first = next(iter(ways))
    return {
        name: {
            "median_s": statistics.median(way.seconds[2:]),
            "over_first": statistics.median(a / b for a, b in zip(way.seconds[2:], ways[first].seconds[2:], strict=True)),
            "relative_difference": float(
                np.linalg.norm(outputs[name] - outputs[first]) / np.linalg.norm(outputs[first])
            ),
        }
        for name, way in ways.items()
    }


def inputs(bundle: Bundle, size_px: int) -> dict[str, np.ndarray]:
    facts = bundle.manifest
    image_tokens = (size_px // facts.vae.downscale // facts.transformer.patch_size) ** 2
    sizes = {"batch": 1, "text_tokens": TEXT_TOKENS, "reference_tokens": 0, "image_tokens": image_tokens}
    sizes["joint_tokens"] = TEXT_TOKENS + image_tokens
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal([sizes[size] if isinstance(size, str) else size for size in spec.shape], np.float32)
        for name, spec in bundle.graph("transformer", "fp32").inputs.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--int8", type=Path)
    parser.add_argument("--int8-weights", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    named = {"bundle": arguments.bundle, "int8": arguments.int8, "int8_weights": arguments.int8_weights}
    bundles = {name: path for name, path in named.items() if path is not None}
    load_before = os.getloadavg()
    measured = measure(bundles, arguments.size, arguments.threads, arguments.rounds)
    for name, row in measured.items():
        print(f"{name:<46}{row['median_s']:>8.3f} s{row['over_first']:>8.2f} x{row['relative_difference']:>10.1e}")
    if arguments.json:
        report = {
            "benchmark": "transformer_ways",
            "machine": {"system": platform.platform(), "cores": os.cpu_count()},
            "versions": {name: installed_version(name) for name in PACKAGES},
            "load_averages": {"before": load_before, "after": os.getloadavg()},
            "settings": {"size_px": arguments.size, "threads": arguments.threads, "rounds": arguments.rounds},
            "ways": measured,
        }
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
