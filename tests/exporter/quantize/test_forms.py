"""The forms in which rounded weights stand in graphs: those that TensorRT takes as well as ONNX Runtime and OpenVINO."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto

from omnigen2_rt.exporter.quantize.bundle import WEIGHTS
from omnigen2_rt.exporter.quantize.schemes import SCHEMES
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.manifest import GraphSpec

CODES = {"int8": TensorProto.INT8, "int4": TensorProto.INT4, "fp8": TensorProto.FLOAT8E4M3FN}
BITS = {TensorProto.INT4: 4, TensorProto.INT8: 8, TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT16: 16,
        TensorProto.BFLOAT16: 16, TensorProto.FLOAT: 32}  # fmt: skip
COMPUTE = {
    "fp32": (TensorProto.FLOAT, np.dtype(np.float32)),
    "fp16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bf16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
GRAPHS = [(scheme, precision) for scheme in SCHEMES for precision in COMPUTE]


class Graph:
    """A graph file with what its values are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = onnx.load(path, load_external_data=False)
        self.stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self.makers = {output: node for node in self.model.graph.node for output in node.output}

    def nodes(self, kind: str) -> list[onnx.NodeProto]:
        return [node for node in self.model.graph.node if node.op_type == kind]

    def location(self, name: str) -> tuple[int, int]:
        """The offset and length of a stored weight in the new file."""
        entries = {entry.key: entry.value for entry in self.stored[name].external_data}
        assert entries["location"] == WEIGHTS
        return int(entries["offset"]), int(entries["length"])

    def values(self, name: str, dtype: np.dtype) -> np.ndarray:
        """A stored weight of 8 bits or more."""
        offset, length = self.location(name)
        raw = (self.path.parent / WEIGHTS).read_bytes()[offset : offset + length]
        return np.frombuffer(raw, dtype).reshape(tuple(self.stored[name].dims))

    def weights(self) -> list[onnx.NodeProto]:
        """The nodes that dequantize weights."""
        return [node for node in self.nodes("DequantizeLinear") if node.input[0] in self.stored]


def specs(bundle: Path, scheme: str, precision: str) -> Iterator[GraphSpec]:
    opened = Bundle.open(bundle)
    yield from (opened.graph(component, precision) for component in SCHEMES[scheme].components)


def files(bundle: Path, scheme: str, precision: str) -> Iterator[Graph]:
    """The rewritten graphs of a precision, and their twins."""
    for spec in specs(bundle, scheme, precision):
        yield from (Graph(bundle / name) for name in (spec.file, spec.inlined) if name is not None)


@pytest.mark.parametrize(("scheme", "precision"), GRAPHS)
def test_codes_are_read_by_their_dequantization_alone_and_have_no_zero_points(
    quantized: dict[tuple[str, str], Path], scheme: str, precision: str
) -> None:
    """TensorRT refused 4-bit codes with zero points, and codes with a Transpose, Slice or Split before their DequantizeLinear."""
    types = {CODES[storage.codes] for storage in SCHEMES[scheme].components.values()}
    for graph in files(quantized[scheme, "A"], scheme, precision):
        assert graph.weights()
        for node in graph.weights():
            codes, scales = (graph.stored[name] for name in node.input)
            assert codes.data_type in types and scales.data_type == COMPUTE[precision][0]
            for tensor in (codes, scales):
                assert [n.op_type for n in graph.model.graph.node if tensor.name in n.input] == ["DequantizeLinear"]
                assert graph.location(tensor.name)[1] * 8 == np.prod(tensor.dims) * BITS[tensor.data_type]
        for node in graph.nodes("DequantizeLinear") + graph.nodes("QuantizeLinear"):
            for zero in node.input[2:]:
                assert not np.any(onnx.numpy_helper.to_array(graph.stored[zero]).astype(np.float32))
        assert not {TensorProto.UINT4, TensorProto.UINT8} & {tensor.data_type for tensor in graph.stored.values()}


@pytest.mark.parametrize(("scheme", "precision"), GRAPHS)
def test_dequantized_weights_are_multiplied_as_they_are(
    quantized: dict[tuple[str, str], Path], scheme: str, precision: str
) -> None:
    for graph in files(quantized[scheme, "A"], scheme, precision):
        for node in graph.weights():
            attributes = {entry.name: entry.i for entry in node.attribute}
            codes, scales = (tuple(graph.stored[name].dims) for name in node.input)
            assert [n.op_type for n in graph.model.graph.node if node.output[0] in n.input] == ["MatMul"]
            if "block_size" in attributes:  # along K
                assert attributes["axis"] == 0 and codes[0] > attributes["block_size"]
                assert (codes[0] // attributes["block_size"], codes[1]) == scales
            else:  # a scale for each column
                assert attributes["axis"] == 1 and codes[1:] == scales


@pytest.mark.parametrize("scheme", SCHEMES)
def test_graphs_of_all_precisions_read_the_same_codes_and_scales_of_the_same_value(
    quantized: dict[tuple[str, str], Path], scheme: str
) -> None:
    bundle = quantized[scheme, "A"]
    for fp32, fp16, bf16 in zip(*(files(bundle, scheme, precision) for precision in COMPUTE), strict=True):
        assert [node.op_type for node in fp32.weights()] == [node.op_type for node in bf16.weights()]
        for node in fp32.weights():
            codes, scales = node.input
            assert fp32.location(codes) == fp16.location(codes) == bf16.location(codes)
            exact = fp32.values(scales, np.dtype(np.float32))
            for graph, (_, dtype) in ((fp16, COMPUTE["fp16"]), (bf16, COMPUTE["bf16"])):
                assert np.array_equal(graph.values(scales, dtype).astype(np.float32), exact)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_manifest_counts_the_weights_of_every_precision(quantized: dict[tuple[str, str], Path], scheme: str) -> None:
    for precision in COMPUTE:
        for spec in specs(quantized[scheme, "A"], scheme, precision):
            graph = Graph(quantized[scheme, "A"] / spec.file)
            held = {tensor.name for tensor in graph.stored.values() if any(e.value == WEIGHTS for e in tensor.external_data)}
            assert spec.rounded_bytes == sum(graph.location(name)[1] for name in held) > 0


@pytest.mark.parametrize("scheme", ["int8-weights", "int4-weights"])
def test_fp16_graphs_give_what_fp32_graphs_give(quantized: dict[tuple[str, str], Path], scheme: str) -> None:
    outputs = []
    for precision in ("fp32", "fp16"):
        (spec,) = (each for each in specs(quantized[scheme, "A"], scheme, precision) if each.component == "context_refiner")
        rng = np.random.default_rng(0)
        sizes = {name: [size if isinstance(size, int) else 5 for size in t.shape] for name, t in spec.inputs.items()}
        feeds = {name: rng.standard_normal(shape).astype(spec.inputs[name].dtype) for name, shape in sizes.items()}
        feeds["prompt_embeds"] = feeds["prompt_embeds"][:1]
        session = onnxruntime.InferenceSession(quantized[scheme, "A"] / spec.file, providers=["CPUExecutionProvider"])
        outputs.append(session.run(None, feeds)[0].astype(np.float32))
    assert 0 < np.linalg.norm(outputs[0] - outputs[1]) < 0.03 * np.linalg.norm(outputs[0])


def fp8(values: np.ndarray) -> np.ndarray:
    """The nearest E4M3 values as float32; what is beyond the largest becomes the largest."""
    return np.clip(values, -448, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)


@pytest.mark.parametrize("config", ["A", "B"])
def test_fp8_products_are_those_of_a_simulation(
    quantized: dict[tuple[str, str], Path], bundles: dict[str, Path], config: str, tmp_path: Path
) -> None:
    """Each product of the transformer by ONNX Runtime, and by ml_dtypes from the weights before and the calibrated scale."""
    new, old = (Bundle.open(path).graph("transformer", "fp32").file for path in (quantized["fp8", config], bundles[config]))
    graph = Graph(quantized["fp8", config] / new)
    before = _float_weights(bundles[config] / old)
    rng = np.random.default_rng(0)
    for product in [node for node in graph.nodes("MatMul") if node.name.endswith(".product")]:
        dequantized, dequantized_weight = (graph.makers[name] for name in product.input)
        quantized_input = graph.makers[dequantized.input[0]]
        name = product.name.removesuffix(".product")
        weight = before[name]
        scale = onnx.numpy_helper.to_array(graph.stored[quantized_input.input[1]])
        x = rng.standard_normal((1, 7, weight.shape[1])).astype(np.float32) * 200 * scale  # some beyond the range
        steps = (np.abs(weight).max(axis=1) / 448).astype(ml_dtypes.bfloat16).astype(np.float32)[:, None]
        expected = (fp8(x / scale) * scale) @ (fp8(weight / steps) * steps).T
        pad = graph.makers.get(quantized_input.input[0])
        first = pad if pad is not None and pad.op_type == "Pad" else quantized_input
        assert (first is pad) == (weight.shape[1] % 16 != 0)
        assert graph.stored[dequantized_weight.input[0]].dims[0] % 16 == 0
        actual = _run(graph, first.input[0], product.output[0], x)
        assert np.allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max()), name


def _float_weights(path: Path) -> dict[str, np.ndarray]:
    """The stored matrices of a graph before quantization, (N, K) float32, by name."""
    types = {TensorProto.FLOAT: np.float32, TensorProto.FLOAT16: np.float16, TensorProto.BFLOAT16: ml_dtypes.bfloat16}
    weights = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        place = {entry.key: entry.value for entry in tensor.external_data}
        if len(tensor.dims) == 2 and place:
            raw = (path.parent / place["location"]).read_bytes()[int(place["offset"]) :][: int(place["length"])]
            weights[tensor.name] = np.frombuffer(raw, types[tensor.data_type]).reshape(tensor.dims).astype(np.float32)
    return weights


def _run(graph: Graph, source: str, output: str, x: np.ndarray) -> np.ndarray:
    """A part of a graph, from one value to another."""
    part = onnx.ModelProto()
    part.CopyFrom(graph.model)
    needed, nodes = {output}, []
    for node in reversed(graph.model.graph.node):
        if source not in node.output and needed & {*node.output}:
            nodes.insert(0, node)
            needed |= {*node.input}
    stored = [tensor for tensor in graph.model.graph.initializer if tensor.name in needed]
    ends = [onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (source, output)]
    part.graph.CopyFrom(onnx.helper.make_graph(nodes, "part", ends[:1], ends[1:], stored))
    file = graph.path.with_name("part.onnx")
    onnx.save(part, file)
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return session.run(None, {source: x})[0]
    finally:
        file.unlink()
