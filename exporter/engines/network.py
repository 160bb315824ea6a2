"""Parses a graph file into a strongly typed network, and looks at its attention layers. For either library.

The parser of TensorRT for RTX maps the bundle's weights: a graph with 7 GB of them is parsed in less than a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...runtime.backends.tensorrt.library import Library, make_log, parser_errors, take_errors
from ...runtime.errors import ExportError
from .callbacks import interrupts_held

FUSED_WIDTHS = range(16, 257, 8)
"""Head widths that may have a fused attention kernel."""


class ParseError(ExportError):
    """The parser refused a graph. Other build options would not help."""


@contextmanager
def parsed_network(library: Library, graph: Path) -> Iterator[tuple[Any, Any]]:
    """A builder and the network of a graph, both of use only inside the block: the parser holds the weights.

    Raises ParseError with the first node that the parser refused.
    """
    trt = library.load()
    log = make_log(trt)
    log.errors.clear()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    with interrupts_held():
        parsed = parser.parse_from_file(str(graph))
    if not parsed:
        reasons = parser_errors(parser) if parser.num_errors else take_errors(log)
        raise ParseError(f"{library.title} can't read {graph.name}: {reasons}")
    yield builder, network
    del parser


def attention_layers(trt: Any, network: Any) -> list[Any]:
    """The network's attention layers."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return [layer for layer in layers if layer.type == trt.LayerType.ATTENTION_INPUT]


def lacks_fused_kernel(trt: Any, layer: Any) -> bool:
    """Whether a fused kernel for an attention layer is not to be expected: float32, a width not in FUSED_WIDTHS, a single head.

    TensorRT for RTX has none for most single heads, such as the autoencoder's.
    """
    query = layer.get_input(0)
    return query.dtype == trt.DataType.FLOAT or query.shape[-1] not in FUSED_WIDTHS or query.shape[1] == 1


def make_decomposable(trt: Any, layer: Any) -> None:
    """Let an attention layer be computed as products and a softmax."""
    layer.__class__ = trt.IAttentionInputLayer  # the bindings give every layer as the base class
    layer.attention.decomposable = True
