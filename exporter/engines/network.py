"""A graph file as a TensorRT network: strongly typed, and where the parser refuses it, in the parser's own words.

polygraphy makes the builder and the network. It would also parse, but it only logs what the parser says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.backends.tensorrt.library import parser_errors
from ...runtime.errors import ExportError


class ParseError(ExportError):
    """TensorRT's parser refused a graph. Building it another way would not help."""


def read_network(graph: Path, errors: Any) -> tuple[Any, Any, Any]:
    """(builder, network, parser) of a graph. The parser holds the weights: keep it until the engine is built.

    errors: an error recorder, for builder and network. Raises ParseError with the nodes that were refused.
    """
    import tensorrt as trt
    from polygraphy.backend.trt import CreateNetwork, get_trt_logger

    builder, network = CreateNetwork(strongly_typed=True)()
    builder.error_recorder = errors
    network.error_recorder = errors
    parser = trt.OnnxParser(network, get_trt_logger())
    if not parser.parse_from_file(str(graph)):
        raise ParseError(f"TensorRT can't read {graph.name}: {parser_errors(parser)}")
    return builder, network, parser
