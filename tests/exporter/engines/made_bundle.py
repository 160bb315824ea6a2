"""A bundle of one small graph made by hand: what the engine tests need, without an export."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from omnigen2_rt.runtime.backends.keys import Key
from omnigen2_rt.runtime.backends.tensorrt.engines import Machine
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

MACHINE = Machine(tensorrt="11.4.0.106", gpu="NVIDIA Test 1", compute_capability="9.0", driver="580.1")
HIDDEN, HEAD = 32, 16


def attention_graph() -> onnx.ModelProto:
    """image_tokens (B, L, D) through one attention of two heads, plus the references' sum of nothing."""
    nodes = [
        helper.make_node("Reshape", ["image_tokens", "heads"], ["split"], name="split"),
        helper.make_node("Transpose", ["split"], ["q"], name="turn", perm=[0, 2, 1, 3]),
        helper.make_node("Attention", ["q", "q", "q"], ["a"], name="attention"),
        helper.make_node("Transpose", ["a"], ["back"], name="turn_back", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["back", "joined"], ["hidden_states"], name="join"),
    ]
    weights = [
        helper.make_tensor("heads", TensorProto.INT64, [4], [0, 0, 2, HEAD]),
        helper.make_tensor("joined", TensorProto.INT64, [3], [0, 0, HIDDEN]),
    ]
    shapes = {"references": (1, "reference_tokens", HIDDEN), "image_tokens": ("batch", "image_tokens", HIDDEN)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("hidden_states", TensorProto.FLOAT16, shapes["image_tokens"])
    graph = helper.make_graph(nodes, "transformer", inputs, [output], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


def cache_graph() -> onnx.ModelProto:
    """The keys of one layer of a language model: what was, and what is new."""
    node = helper.make_node("Concat", ["past", "new"], ["present"], name="join", axis=2)
    shapes = {"past": (1, 1, "past_tokens", 2), "new": (1, 1, "text_tokens", 2)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("present", TensorProto.FLOAT16, (1, 1, "total_tokens", 2))
    graph = helper.make_graph([node], "language_model", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])


GRAPHS = {"transformer": attention_graph, "velocity_head": attention_graph, "language_model": cache_graph}


def make_bundle(
    folder: Path, *, weights: bytes = b"weights", scale: float = 1.0, components: tuple[str, ...] = ("transformer",)
) -> Bundle:
    """A bundle of small graphs in fp16, by default a single "transformer". Another `scale` makes another graph file."""
    folder.mkdir(parents=True)
    (folder / "w.bin").write_bytes(weights)
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
        graphs=tuple(_write_graph(folder, component, scale) for component in components),
        files=(FileSpec(file="w.bin", size_bytes=len(weights), sha256=hashlib.sha256(weights).hexdigest()),),
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(folder)


def _write_graph(folder: Path, component: str, scale: float) -> GraphSpec:
    path = folder / f"{component}.fp16.onnx"
    model = GRAPHS[component]()
    model.doc_string = str(scale)
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


def make_test_key(bundle: Bundle, **changed: object) -> Key:
    """The key of the bundle's engine on MACHINE, with some ingredients changed."""
    from omnigen2_rt.runtime.backends.tensorrt.engines import make_key

    graph = bundle.graph("transformer", "fp16")
    key = make_key(
        bundle, graph, MACHINE, rope="plugin", profiles=[{"name": "text"}], options={"optimization_level": 3}
    )
    return {**key, **changed}
