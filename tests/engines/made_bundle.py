"""A bundle of one small graph made by hand: what the engine tests need, without an export."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from omnigen2_rt.runtime.backends.engines import Key, Machine
from omnigen2_rt.runtime.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    Bundle,
    FileSpec,
    GraphSpec,
    Manifest,
    MLLMFacts,
    Prompts,
    SchedulerFacts,
    TensorSpec,
    TransformerFacts,
    VAEFacts,
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


def make_bundle(folder: Path, *, weights: bytes = b"weights", scale: float = 1.0) -> Bundle:
    """A bundle of a single "transformer" in fp16."""
    folder.mkdir(parents=True)
    graph = folder / "transformer.fp16.onnx"
    model = attention_graph()
    model.doc_string = str(scale)
    onnx.save(model, graph)
    (folder / "w.bin").write_bytes(weights)
    tokens = TensorSpec(dtype="float16", shape=("batch", "image_tokens", HIDDEN))
    spec = GraphSpec(
        component="transformer",
        precision="fp16",
        file=graph.name,
        sha256=hashlib.sha256(graph.read_bytes()).hexdigest(),
        inputs={
            "references": TensorSpec(dtype="float16", shape=(1, "reference_tokens", HIDDEN)),
            "image_tokens": tokens,
        },
        outputs={"hidden_states": tokens},
        weight_bytes=1000,
        resident_bytes=1000,
    )
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        source="made by a test",
        tools={},
        transformer=TransformerFacts(
            hidden_size=HIDDEN,
            latent_channels=16,
            patch_size=2,
            rope_axes=(4, 6, 6),
            rope_theta=1e4,
            max_references=3,
            teacache_coefficients=(1.0,),
        ),
        vae=VAEFacts(downscale=8, scaling_factor=1.0, shift_factor=0.0),
        mllm=MLLMFacts(hidden_size=8, layers=1, kv_heads=1, head_width=8, rope_theta=1e4, mrope_section=(1, 1, 2)),
        scheduler=SchedulerFacts(dynamic_time_shift=False),
        prompts=Prompts(drawing="{prompt}"),
        tokenizer="tokenizer.json",
        graphs=(spec,),
        files=(FileSpec(file="w.bin", size_bytes=len(weights), sha256=hashlib.sha256(weights).hexdigest()),),
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return Bundle.open(folder)


def make_test_key(bundle: Bundle, **changed: object) -> Key:
    """The key of the bundle's engine on MACHINE, with some ingredients changed."""
    from omnigen2_rt.runtime.backends.engines import make_key

    graph = bundle.graph("transformer", "fp16")
    key = make_key(
        bundle, graph, MACHINE, rope="plugin", profiles=[{"name": "text"}], options={"optimization_level": 3}
    )
    return {**key, **changed}
