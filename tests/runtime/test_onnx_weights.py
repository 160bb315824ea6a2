"""The reader of graphs' external data against the ONNX library's own, and against what two readers might read differently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper

from omnigen2_rt.runtime.files.onnx_weights import ExternalTensor, external_tensors
from omnigen2_rt.runtime.pipeline import NANO
from tests.fuzz.tiny_bundle import small_graph


def external(name: str, **data: str) -> TensorProto:
    """An external tensor of four floats."""
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": f"{name}.bin", **data}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def model_with(
    *, initializers: list[TensorProto] | None = None, attributes: list[AttributeProto] | None = None
) -> onnx.ModelProto:
    node = helper.make_node("Identity", ["x"], ["y"])
    node.attribute.extend(attributes or [])
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    return helper.make_model(helper.make_graph([node], "graph", [], [value], initializers or []))


def varint(number: int) -> bytes:
    """An integer as protobuf writes it."""
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def names(model: onnx.ModelProto) -> list[str]:
    return [tensor.name for tensor in external_tensors(model.SerializeToString())]


@pytest.mark.parametrize("file", sorted(NANO.glob("*.onnx")), ids=lambda file: file.stem)
def test_external_tensors_of_a_graph_are_those_that_onnx_reads(file: Path) -> None:
    model = onnx.load(file, load_external_data=False)
    expected = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            entry = {item.key: item.value for item in tensor.external_data}
            expected[tensor.name] = entry["location"], int(entry["offset"]), int(entry["length"])
    assert {tensor.name: tuple(tensor[1:]) for tensor in external_tensors(file.read_bytes())} == expected


def hidden_places() -> Iterator[tuple[str, onnx.ModelProto]]:
    """By name, models with an external tensor "w" elsewhere than among the graph's initializers."""
    inner = model_with(initializers=[external("w")]).graph
    sparse = onnx.SparseTensorProto(dims=[9], values=external("w"))
    by_indices = onnx.SparseTensorProto(dims=[9], indices=external("w"))
    yield "an attribute", model_with(attributes=[helper.make_attribute("value", external("w"))])
    yield "attributes", model_with(attributes=[AttributeProto(name="v", type=AttributeProto.TENSORS, tensors=[external("w")])])
    yield "a graph inside", model_with(attributes=[helper.make_attribute("body", inner)])
    yield "graphs inside", model_with(attributes=[AttributeProto(name="b", type=AttributeProto.GRAPHS, graphs=[inner])])
    yield "deep inside", model_with(attributes=[helper.make_attribute("b", model_with(attributes=[
        helper.make_attribute("body", inner)]).graph)])  # fmt: skip
    yield "a sparse attribute", model_with(attributes=[AttributeProto(name="s", sparse_tensor=sparse)])
    yield "sparse attributes", model_with(attributes=[AttributeProto(name="s", sparse_tensors=[by_indices])])
    for name, tensor in {"a sparse initializer": sparse, "its indices": by_indices}.items():
        model = model_with()
        model.graph.sparse_initializer.append(tensor)
        yield name, model
    model = model_with()
    node = helper.make_node("Constant", [], ["y"], value=external("w"))
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 23)]))
    yield "a function", model
    model = model_with()
    model.functions.append(helper.make_function("d", "f", [], [], [], [], attribute_protos=[
        helper.make_attribute("value", external("w"))]))  # fmt: skip
    yield "a function's default", model
    model = model_with()
    model.training_info.add().algorithm.CopyFrom(inner)
    yield "training", model


PLACES = dict(hidden_places())


@pytest.mark.parametrize("place", PLACES)
def test_external_tensor_is_found_wherever_it_hides(place: str) -> None:
    assert names(PLACES[place]) == ["w"]


@pytest.mark.parametrize("higher_bits", [1 << 32, 1 << 40, 1 << 62])
def test_field_number_that_an_engine_would_cut_is_refused(higher_bits: int) -> None:
    """An engine reads 32 bits of it: a weight at a memory address passed as an unknown field."""
    model = model_with()
    tensor = external("w", location="*/_ORT_MEM_ADDR_/*").SerializeToString()
    hidden = varint((5 << 3 | 2) | higher_bits) + varint(len(tensor)) + tensor
    graph = model.graph.SerializeToString() + hidden
    model.ClearField("graph")
    content = model.SerializeToString() + varint(7 << 3 | 2) + varint(len(graph)) + graph
    with pytest.raises(ValueError, match="is no whole ONNX model"):
        external_tensors(content)


def test_offset_and_length_have_defaults() -> None:
    model = model_with(initializers=[external("w"), external("v", offset="8", length="16", checksum="0")])
    expected = [ExternalTensor("w", "w.bin", 0, 16), ExternalTensor("v", "v.bin", 8, 16)]
    assert external_tensors(model.SerializeToString()) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"offset": "-1"}, "whose offset or length is '-1', not a whole number"),
        ({"offset": "1_0"}, "whose offset or length is '1_0'"),
        ({"offset": "٣"}, "whose offset or length is '٣'"),
        ({"offset": "9" * 5000}, "whose offset or length is '9999"),
        ({"length": "15"}, "of 16 bytes with the length 15"),
        ({"length": "10000"}, "of 16 bytes with the length 10000"),
        ({"basepath": "/"}, "has 'basepath' twice, or it is unknown"),
    ],
)
def test_external_tensor_with_wrong_data_is_refused(data: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        names(model_with(initializers=[external("w", **data)]))


def test_entry_given_twice_is_refused() -> None:
    """Readers take the first or the last one."""
    tensor = external("w")
    tensor.external_data.add(key="location", value="other.bin")
    with pytest.raises(ValueError, match="has 'location' twice"):
        names(model_with(initializers=[tensor]))


def test_tensor_of_an_unknown_type_or_many_dimensions_is_refused() -> None:
    tensor = external("w")
    tensor.data_type = 99
    with pytest.raises(ValueError, match="of the unknown type 99"):
        names(model_with(initializers=[tensor]))
    tensor.dims.extend([2**62] * 40)
    with pytest.raises(ValueError, match="of 41 dimensions; allowed are 32"):
        names(model_with(initializers=[tensor]))


def test_graph_given_twice_is_refused() -> None:
    """Protobuf merges the two: a tensor's location may come from the one and its offset from the other."""
    model = small_graph("w.bin")
    with pytest.raises(ValueError, match="has a field of a model twice"):
        external_tensors(model + model)


def test_graph_nested_too_deeply_is_refused() -> None:
    """The ONNX library would refuse it too, but an engine need not."""
    graph = model_with(initializers=[external("w")]).graph.SerializeToString()
    for _ in range(70):
        for tag in b"\x32\x2a\x0a":  # a graph in an attribute in a node in a graph
            graph = bytes([tag]) + varint(len(graph)) + graph
    with pytest.raises(ValueError, match="is nested too deeply"):
        external_tensors(b"\x08\x0a\x3a" + varint(len(graph)) + graph)


@pytest.mark.parametrize("encoding", ["wide tag", "wide length"])
def test_unusual_encodings_are_read_as_protobuf_reads_them(encoding: str) -> None:
    """An integer may take more bytes than it needs."""
    graph = small_graph("w.bin")
    key = b"\x0a\x08location"
    wide = {"wide tag": b"\x8a\x00\x08location", "wide length": b"\x0a\x88\x00location"}[encoding]
    entry = b"\x6a" + bytes([len(key) + 7]) + key
    assert graph.count(entry) == 1
    start = graph.index(entry)
    graph_bytes = onnx.ModelProto.FromString(graph).graph.ByteSize()
    tensor_bytes = onnx.ModelProto.FromString(graph).graph.initializer[0].ByteSize()
    changed = graph[:start] + b"\x6a" + bytes([len(key) + 8]) + wide + graph[start + len(entry) :]
    changed = changed.replace(b"\x3a" + bytes([graph_bytes]), b"\x3a" + bytes([graph_bytes + 1]), 1)
    changed = changed.replace(b"\x2a" + bytes([tensor_bytes]), b"\x2a" + bytes([tensor_bytes + 1]), 1)
    assert onnx.ModelProto.FromString(changed).graph.initializer[0].external_data[0].value == "w.bin"
    assert external_tensors(changed) == external_tensors(graph)
