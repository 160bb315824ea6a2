"""A bundle whose files are a few bytes and whose manifest is nano's, and an engine that knows its shapes and computes nothing."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from omnigen2_rt.runtime.backends.backend import check_names
from omnigen2_rt.runtime.backends.fake import FakeBackend
from omnigen2_rt.runtime.dtypes import numpy_dtype
from omnigen2_rt.runtime.errors import BackendError
from omnigen2_rt.runtime.manifest import GraphSpec, Manifest
from omnigen2_rt.runtime.pipeline import NANO

WEIGHTS = "mllm/model.safetensors"
PRECISION = "fp32"
TOKEN_PX, LATENT_PX = 32, 16


def make_tiny_bundle(folder: Path) -> dict[str, Any]:
    """Write the bundle. Returns its manifest as JSON. Beside its files lie what the hostile names of `mutations.PATHS` want."""
    manifest = json.loads((NANO / "bundle.json").read_text(encoding="utf-8"))
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(16)
    graph = small_graph(WEIGHTS, offset=len(weights) - 16)
    manifest["graphs"] = [entry for entry in manifest["graphs"] if entry["precision"] == PRECISION]
    for entry in manifest["graphs"]:
        for name in (entry["file"], entry["inlined"]):
            if name is not None:
                _write(folder / name, graph)
        entry["sha256"] = hashlib.sha256(graph).hexdigest()
        entry["inlined_sha256"] = entry["inlined"] and entry["sha256"]
    for entry in manifest["files"]:
        is_weights = entry["header_sha256"] is not None
        content = weights if is_weights else (NANO / entry["file"]).read_bytes()
        _write(folder / entry["file"], content)
        entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        entry["header_sha256"] = hashlib.sha256(weights[:-16]).hexdigest() if is_weights else None
    _write(folder.parent / "outside", b"a file outside")
    (folder / "link").symlink_to(folder.parent)
    os.mkfifo(folder / "FIFO")
    return dict(manifest)


def small_graph(location: str, *, offset: int = 0) -> bytes:
    """An ONNX file with one external tensor of four floats."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, "offset": str(offset), "length": "16"}.items():
        tensor.external_data.add(key=key, value=value)
    nodes = [helper.make_node("Identity", ["w"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]
    model = helper.make_model(helper.make_graph(nodes, "graph", [], outputs, [tensor]))
    return bytes(model.SerializeToString())


def shape_checking_backend(manifest: Manifest) -> FakeBackend:
    """A backend whose graphs are those of `manifest`, whatever another manifest says of them. Their outputs are zeros."""
    graphs = {graph.component: graph for graph in manifest.graphs}

    def respond(component: str, feeds: Mapping[str, Any]) -> dict[str, Any]:
        if component not in graphs:
            raise BackendError(f"there is no graph {component}")
        return _zeros(graphs[component], feeds)

    return FakeBackend(PRECISION, respond=respond)


def _zeros(graph: GraphSpec, feeds: Mapping[str, Any]) -> dict[str, Any]:
    check_names(graph, feeds)
    sizes: dict[str, int] = {}
    for name, spec in graph.inputs.items():
        shape = np.shape(feeds[name])
        pairs = zip(spec.shape, shape, strict=False)
        wanted = [sizes.setdefault(size, length) if isinstance(size, str) else size for size, length in pairs]
        if list(shape) != wanted or len(shape) != len(spec.shape):
            raise BackendError(f"{graph.component} takes {name} of shape {spec.shape}; it was given {shape}")
    latent = {"latent_height": sizes.get("height_px", 0) // LATENT_PX, "latent_width": sizes.get("width_px", 0) // LATENT_PX}
    picture = {"height_px": sizes.get("latent_height", 0) * LATENT_PX, "width_px": sizes.get("latent_width", 0) * LATENT_PX}
    tokens = {
        "image_tokens": sizes.get("patches", 0) // 4,
        "reference_tokens": sizes.get("earlier_tokens", 0) + sizes.get("image_tokens", 0),
        "total_tokens": sizes.get("past_tokens", 0) + sizes.get("text_tokens", 0),
    }
    known = {**latent, **picture, **tokens, **sizes}
    return {
        name: np.zeros([known[size] if isinstance(size, str) else size for size in spec.shape], numpy_dtype(spec.dtype))
        for name, spec in graph.outputs.items()
    }


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
