"""A bundle of small handwritten graphs, for engine tests that need no export."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from omnigen2_rt.exporter.engines.engine_store import NewPlan, store_engine
from omnigen2_rt.exporter.engines.options import EngineOptions
from omnigen2_rt.runtime.backends.cache_keys import Key
from omnigen2_rt.runtime.backends.tensorrt.engines import Machine, make_key
from omnigen2_rt.runtime.backends.tensorrt.records import EngineRecord
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    FileSpec,
    GraphSpec,
    Manifest,
    MLLMParameters,
    Prompts,
    SchedulerParameters,
    TensorSpec,
    TransformerParameters,
    VAEParameters,
)

Shape = tuple[int | str, ...]

MACHINE = Machine(library="tensorrt", tensorrt="11.4.0.106", gpu="NVIDIA Test 1", compute_capability="9.0", driver="580.1")
HIDDEN = 32


def attention_graph(heads: int = 2, doc: str = "") -> onnx.ModelProto:
    """One attention over image_tokens (B, L, D). `doc` only changes the file's bytes; the references go unused.

    TensorRT for RTX 1.7 crashes where one tensor is query, key and value.
    """
    nodes = [
        helper.make_node("Reshape", ["image_tokens", "heads"], ["split"], name="split"),
        helper.make_node("Transpose", ["split"], ["q"], name="transpose", perm=[0, 2, 1, 3]),
        helper.make_node("Sigmoid", ["q"], ["k"], name="keys"),
        helper.make_node("Tanh", ["q"], ["v"], name="values"),
        helper.make_node("Attention", ["q", "k", "v"], ["a"], name="attention"),
        helper.make_node("Transpose", ["a"], ["back"], name="transpose_back", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "joined"], ["hidden_states"], name="join"),
    ]
    weights = [
        helper.make_tensor("heads", TensorProto.INT64, [4], [0, 0, heads, HIDDEN // heads]),
        helper.make_tensor("joined", TensorProto.INT64, [3], [0, 0, HIDDEN]),
    ]
    shapes = {"references": (1, "reference_tokens", HIDDEN), "image_tokens": ("batch", "image_tokens", HIDDEN)}
    return _model(nodes, shapes, ("hidden_states", shapes["image_tokens"]), weights, doc)


def kv_cache_graph() -> onnx.ModelProto:
    """The keys of one layer of a language model: joins past and new ones."""
    node = helper.make_node("Concat", ["past", "new"], ["present"], name="join", axis=2)
    shapes = {"past": (1, 1, "past_tokens", 2), "new": (1, 1, "text_tokens", 2)}
    return _model([node], shapes, ("present", (1, 1, "total_tokens", 2)))


def antialiasing_graph() -> onnx.ModelProto:
    """A Resize node that the parser of either library refuses."""
    node = helper.make_node("Resize", ["image_tokens", "", "scales"], ["resized"], name="layers.0.resize", antialias=1)
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [3], [1.0, 1.0, 1.0])
    shape = ("batch", "image_tokens", HIDDEN)
    return _model([node], {"image_tokens": shape}, ("resized", shape), [scales])


def _model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    output: tuple[str, Shape],
    weights: list[onnx.TensorProto] | None = None,
    doc: str = "",
) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in (*inputs.items(), output)
    ]
    graph = helper.make_graph(nodes, "graph", values[:-1], values[-1:], weights or [])
    return helper.make_model(graph, doc_string=doc, opset_imports=[helper.make_opsetid("", 23)])


GRAPHS = {"transformer": attention_graph, "velocity_head": attention_graph, "language_model": kv_cache_graph}


def make_bundle(
    folder: Path, *, weights: bytes = b"weights", graphs: Mapping[str, onnx.ModelProto] | None = None
) -> Bundle:
    """A bundle of small graphs in fp16 by component, by default a single "transformer"."""
    folder.mkdir(parents=True)
    contents = {"w.bin": weights, "tokenizer.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    graphs = {"transformer": attention_graph()} if graphs is None else graphs
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="made by a test",
        tools={},
        transformer=TransformerParameters(
            hidden_size=HIDDEN,
            latent_channels=16,
            patch_size=2,
            rope_axes=(4, 6, 6),
            rope_theta=1e4,
            max_references=3,
            teacache_coefficients=(1.0,),
        ),
        vae=VAEParameters(downscale=8, scaling_factor=1.0, shift_factor=0.0),
        mllm=MLLMParameters(hidden_size=8, layers=1, kv_heads=1, head_width=8, rope_theta=1e4, mrope_section=(1, 1, 2)),
        scheduler=SchedulerParameters(dynamic_time_shift=False),
        prompts=Prompts(drawing="{prompt}"),
        tokenizer="tokenizer.json",
        graphs=tuple(_write_graph(folder, component, model) for component, model in graphs.items()),
        files=tuple(
            FileSpec(file=name, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for name, content in contents.items()
        ),
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(folder)


def _write_graph(folder: Path, component: str, model: onnx.ModelProto) -> GraphSpec:
    path = folder / f"{component}.fp16.onnx"
    onnx.save(model, path)
    return GraphSpec(
        component=component,
        precision="fp16",
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        inputs={value.name: _spec(value) for value in model.graph.input},
        outputs={value.name: _spec(value) for value in model.graph.output},
        weight_bytes=1000,
        resident_bytes=1000,
        repeats_shapes=component == "transformer",
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    shape = tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return TensorSpec(dtype="float16", shape=shape)


def make_test_key(bundle: Bundle, **overrides: object) -> Key:
    """The key of the bundle's engine on MACHINE, with `overrides`."""
    graph = bundle.graph("transformer", "fp16")
    profiles = [{"name": "text", "shapes": {}}]
    options = EngineOptions().to_json()
    return {**make_key(bundle, graph, MACHINE, rope="plugin", profiles=profiles, options=options), **overrides}


def store_plan(bundle: Path, key: Key, plan: bytes) -> EngineRecord:
    """Store an engine of these bytes."""

    def build(file: NewPlan) -> dict[str, Any]:
        file.write(plan)
        return {}

    return store_engine(bundle, key, build)
