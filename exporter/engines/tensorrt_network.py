"""Parses a graph file into a strongly typed TensorRT network; an error holds the parser's own message.

polygraphy creates the builder and the network. Its own parsing would only log the parser's errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...runtime.backends.tensorrt.library import parser_errors
from ...runtime.errors import ExportError


class ParseError(ExportError):
    """TensorRT's parser refused a graph. Other build options would not help."""


def read_network(graph: Path, errors: Any) -> tuple[Any, Any, Any]:
    """The builder, network and parser of a graph. The parser holds the weights: keep it until the engine is built.

    errors: the error recorder of builder and network. Raises ParseError with the nodes that the parser refused.
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
