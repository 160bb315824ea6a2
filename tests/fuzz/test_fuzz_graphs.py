"""Mutated ONNX files: the runtime's reader finds every external tensor that the ONNX library finds, or refuses the file."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from omnigen2_rt.runtime.files.onnx_weights import external_tensors
from tests.fuzz.mutations import mutate_bytes
from tests.fuzz.suite import CASES, Suite, check_message, record_counts
from tests.fuzz.tiny_bundle import small_graph


@cache
def _graph() -> bytes:
    """A model with an external tensor in the graph, in an attribute and in a graph inside a node."""
    model = onnx.ModelProto.FromString(small_graph("w.bin"))
    inner = onnx.ModelProto.FromString(small_graph("inner.bin")).graph
    tensor = onnx.ModelProto.FromString(small_graph("value.bin")).graph.initializer[0]
    model.graph.node.append(helper.make_node("Loop", [], ["a"], body=inner))
    model.graph.node.append(helper.make_node("Constant", [], ["b"], value=tensor))
    return bytes(model.SerializeToString())


def run_case(random: Random | None) -> str:
    """Read a mutated file, or the file itself for None."""
    content = _graph() if random is None else mutate_bytes(random, _graph())
    try:
        locations = {tensor.location for tensor in external_tensors(content)}
    except ValueError as error:
        check_message(error)
        return "refused"
    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError:
        return "read here alone"
    assert _locations(model.graph) <= locations
    return "read"


def _locations(graph: onnx.GraphProto) -> set[str]:
    """The locations of the external tensors where `_graph` has some."""
    tensors: list[TensorProto] = [*graph.initializer]
    inner: set[str] = set()
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        tensors.append(attribute.t)
        if attribute.HasField("g"):
            inner |= _locations(attribute.g)
    entries = (entry for tensor in tensors for entry in tensor.external_data)
    return inner | {_text(entry.value) for entry in entries if entry.key == "location"}


def _text(value: str | bytes) -> str:
    """A location as the runtime's reader gives it; the ONNX library gives bytes for what isn't UTF-8."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


SUITE = Suite("graphs", run_case)


def test_graph_without_a_mutation_is_read() -> None:
    assert run_case(None) == "read"


def test_mutated_graphs_hide_no_external_tensor(record_property: Callable[[str, object], None]) -> None:
    outcomes = record_counts(SUITE, record_property)
    assert sum(outcomes.values()) == CASES
    assert min(outcomes["refused"], outcomes["read"]) > CASES // 20, "the mutations are too coarse or too fine"
