"""Omni-RoPE: RMS norm of each head, rotation by its position, and a transpose that puts heads before tokens.

    omnigen2::OmniRope(x (B, S, H, Dh), weight (Dh), cos (S, Dh/2), sin (S, Dh/2); epsilon) -> (B, H, S, Dh)

`definition.py` defines it in numpy, `function.py` as an ONNX function for any ONNX runtime, `kernel.py` as one GPU kernel,
and `plugin.py` binds that kernel into TensorRT. This file holds the names that they share and imports nothing.
"""

from typing import Final

OP_TYPE: Final = "OmniRope"
"""A unique op type: TensorRT's ONNX parser looks up importers by op type alone and ignores the domain."""

DOMAIN: Final = "omnigen2"
"""The ONNX domain and the TensorRT plugin namespace. It must not contain a dot."""

VERSION: Final = 1

QUALIFIED_NAME: Final = f"{DOMAIN}::{OP_TYPE}"

PLUGIN_ATTRIBUTES: Final[dict[str, int | str]] = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION), "aot": 1}
"""A node's attributes by which TensorRT finds the registered plugin. Other runtimes ignore them."""

__all__ = ["DOMAIN", "OP_TYPE", "PLUGIN_ATTRIBUTES", "QUALIFIED_NAME", "VERSION"]
