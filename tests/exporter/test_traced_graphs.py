"""Graphs that the tests share are the graphs that torch traces: the same bytes, and never those of another network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch._subclasses import FakeTensorMode

from omnigen2_rt.exporter import trace as tracing
from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.components.diffusion_transformer import latent_embedder
from omnigen2_rt.plugins.omni_rope.torch_export import emit
from omnigen2_rt.reference.rope import omni_rope
from omnigen2_rt.reference.transformer import Transformer
from tests import traced_graphs
from tests.exporter.checkpoints import A


def test_shared_graph_is_the_traced_one_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an OmniRope function, in a type that isn't torch's default."""
    checkpoint = Checkpoint.open(A)
    build = partial(checkpoint.build, "transformer", emit)
    graphs = []
    for optimized_graph in (traced_graphs.traced_anew, traced_graphs.shared_graph, traced_graphs.shared_graph):
        monkeypatch.setattr(tracing, "optimized_graph", optimized_graph)
        model = tracing.trace(latent_embedder, checkpoint.transformer, build, "bf16")
        empty = [value for value in model.graph.initializers.values() if value.const_value is None]
        weights = [(value.name, value.dtype, value.shape) for value in empty]
        graphs.append((ir.to_proto(model).SerializeToString(), weights))
    assert graphs[0] == graphs[1] == graphs[2] and len(graphs[0][1]) > 10


def test_graph_that_is_kept_is_not_traced_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    traced: list[torch.nn.Module] = []

    def stand_in(network: torch.nn.Module, *_: Any) -> ir.Model:
        traced.append(network)
        return ir.from_onnx_text('<ir_version: 10, opset_import: ["": 23]> any (float[N] x) => (float[N] y) {y = Abs(x)}')

    monkeypatch.setattr(traced_graphs, "GRAPHS", tmp_path)
    monkeypatch.setattr(traced_graphs, "traced_anew", stand_in)
    with FakeTensorMode() as fake:
        first, same, other = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 5)
        for network in (first, same, other, first):
            traced_graphs.shared_graph(network, [torch.empty(2, 4)], [{}], fake)
    assert traced == [first, other] and len(list(tmp_path.rglob("*.onnx"))) == 2


def described(network: Callable[[], torch.nn.Module], dtype: torch.dtype = torch.float32, size: int = 4) -> Any:
    with FakeTensorMode():
        return traced_graphs.description(network(), [torch.empty(size, size, dtype=dtype)], [{0: torch.export.Dim.DYNAMIC}])


def test_description_differs_where_a_graph_may() -> None:
    config = Checkpoint.open(A).transformer
    descriptions = [
        described(network, dtype, size)
        for network, dtype, size in (
            (partial(torch.nn.Linear, 4, 4), torch.float32, 4),
            (partial(torch.nn.Linear, 4, 4), torch.float16, 4),
            (partial(torch.nn.Linear, 4, 4), torch.float32, 5),
            (partial(torch.nn.Linear, 4, 8), torch.float32, 4),
            (partial(torch.nn.Linear, 4, 4, bias=False), torch.float32, 4),
            (partial(torch.nn.LayerNorm, 4), torch.float32, 4),
            (partial(torch.nn.LayerNorm, 4, eps=1e-6), torch.float32, 4),
            (partial(Transformer, config, emit), torch.float32, 4),
            (partial(Transformer, config, omni_rope), torch.float32, 4),
            (partial(Transformer, replace(config, timestep_scale=1.0), emit), torch.float32, 4),
        )
    ]
    assert all(one != other for k, one in enumerate(descriptions) for other in descriptions[:k])
    assert described(partial(Transformer, config, emit)) == descriptions[7]


def test_network_that_cannot_be_described_has_no_key() -> None:
    scale = 2.0
    network = torch.nn.Identity()
    network.function = lambda x: scale * x
    with pytest.raises(traced_graphs.Indescribable):
        described(lambda: network)
    with pytest.raises(traced_graphs.Indescribable, match="a tensor with values"):
        traced_graphs.description(torch.nn.Identity(), [torch.zeros(2)], [{}])
