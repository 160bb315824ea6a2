"""OpenVINO on a bundle whose files are links, as in a hub's cache."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from omnigen2_rt import load
from omnigen2_rt.runtime.backends import open_backend
from omnigen2_rt.runtime.backends.openvino.linked_weights import has_links, read_linked, weights_as_inputs
from omnigen2_rt.runtime.backends.openvino.rewrites import read_rewritten
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.request import Request

REQUEST = Request(prompt="a red cube", height_px=64, width_px=64, steps=2)


@pytest.fixture
def linked(bundle: Bundle, tmp_path: Path) -> Bundle:
    """The bundle as a hub's cache keeps it: each file is a link to one that has its hash for a name."""
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "main"
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in bundle.path.rglob("*") if path.is_file())):
        name, blob = snapshot / path.relative_to(bundle.path), blobs / f"{number:040x}"
        name.parent.mkdir(parents=True, exist_ok=True)
        path.rename(blob)
        name.symlink_to(os.path.relpath(blob, name.parent))
    return Bundle.open(snapshot)


@pytest.mark.parametrize("backend", ["openvino", "ort-cpu"])
def test_bundle_of_links_draws_the_same_picture(linked: Bundle, bundles: dict[str, Path], backend: str) -> None:
    """OpenVINO refused every weight: "resolves to … which is outside the base directory"."""
    latents = []
    for path in (linked.path, bundles["A"]):
        with load(path, backend=backend, precision="fp32", threads=1) as pipeline:
            latents.append(pipeline.generate(REQUEST).latents)
    np.testing.assert_array_equal(*latents)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_graph_of_linked_weights_is_rewritten_like_any_other(
    linked: Bundle, bundles: dict[str, Path], precision: str
) -> None:
    whole = Bundle.open(bundles["A"])
    assert has_links(linked) and not has_links(whole)
    for graph in (graph for graph in whole.manifest.graphs if graph.precision == precision):
        ours, usual = (read_rewritten(each, graph, precision, pads=True) for each in (linked, whole))
        kinds = [sorted(node.get_type_name() for node in each.model.get_ordered_ops()) for each in (ours, usual)]
        assert ours.reports == usual.reports and kinds[0] == kinds[1], graph.component


def test_linked_weights_are_read_from_their_mapped_files(linked: Bundle) -> None:
    model, shared = read_linked(linked.path / "context_refiner.fp32.inlined.onnx")
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if "/blobs/" in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    constants = (node for node in model.get_ordered_ops() if node.get_type_name() == "Constant" and node.get_byte_size() > 4096)
    addresses = [node.data.ctypes.data for node in constants]
    assert addresses and all(any(first <= address < end for first, end in ranges) for address in addresses)
    assert len(shared) > len(addresses)


def test_weights_become_inputs_and_nothing_else_changes(bundles: dict[str, Path]) -> None:
    path = bundles["A"] / "velocity_head.fp32.onnx"
    before = onnx.load(path, load_external_data=False)
    content, weights = weights_as_inputs(path.read_bytes())
    after = onnx.load_model_from_string(content)
    external = {tensor.name: tensor for tensor in before.graph.initializer if tensor.external_data}
    assert {weight.name for weight in weights} == external.keys()
    for weight in weights:
        tensor = external[weight.name]
        entries = {entry.key: entry.value for entry in tensor.external_data}
        assert (weight.shape, weight.element) == (tuple(tensor.dims), tensor.data_type)
        assert (weight.location, weight.offset) == (entries["location"], int(entries["offset"]))
    inputs = {value.name for value in before.graph.input} | external.keys()
    assert {value.name for value in after.graph.input} == inputs
    assert after.graph.node == before.graph.node and after.functions == before.functions
    assert list(after.graph.initializer) == [tensor for tensor in before.graph.initializer if not tensor.external_data]


def test_linked_weight_elsewhere_than_in_an_initializer_is_refused(linked: Bundle) -> None:
    """OpenVINO, which gets a linked graph without a path, read such a weight from the current folder."""
    path = (linked.path / "velocity_head.fp32.onnx").resolve()
    model = onnx.load(path, load_external_data=False)
    weight = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [weight.name], value=weight))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="aren't initializers"):
        read_linked(path)


@pytest.mark.parametrize("content", [b"\x3a\xff", b"\x3b", b"\xff" * 20, b"\x3a\x02\x2a\x09"])
def test_graph_that_is_none_is_one_error(linked: Bundle, content: bytes) -> None:
    with pytest.raises(ValueError, match="is no .*ONNX model"):
        weights_as_inputs(content)
    spec = linked.graph("context_refiner", "fp32")
    (linked.path / str(spec.inlined)).resolve().write_bytes(content)
    with pytest.raises(BackendError, match=r"OpenVINO can't open context_refiner\.fp32"):
        open_backend(linked, "openvino", "fp32", threads=1).open("context_refiner")


def test_weight_beyond_the_end_of_its_linked_file_is_one_error(linked: Bundle) -> None:
    file = (linked.path / "transformer" / "diffusion_pytorch_model.safetensors").resolve()
    os.truncate(file, 10_000)
    with pytest.raises(BackendError, match="ends at byte .* which has 10000"):
        open_backend(linked, "openvino", "fp32", threads=1).open("context_refiner")
