"""Omni-RoPE: normalize a head, rotate it by its position, put the heads first. One operator, four faces.

    omnigen2::OmniRope(x (B, S, H, Dh), weight (Dh), cos (S, Dh/2), sin (S, Dh/2); epsilon) -> (B, H, S, Dh)

`meaning.py` says it in numpy, `function.py` as an ONNX function for any ONNX runtime, `kernel.py` as one GPU kernel,
`plugin.py` binds that kernel into TensorRT. This file holds the names they share and imports nothing.
"""

from typing import Final

OP_TYPE: Final = "OmniRope"
"""Unique on purpose: TensorRT's ONNX parser looks importers up by op type alone and ignores the domain."""

DOMAIN: Final = "omnigen2"
"""The ONNX domain, which is the TensorRT plugin namespace as well. It must hold no dot."""

VERSION: Final = 1

QUALIFIED_NAME: Final = f"{DOMAIN}::{OP_TYPE}"

PLUGIN_ATTRIBUTES: Final[dict[str, int | str]] = {"plugin_namespace": DOMAIN, "plugin_version": str(VERSION), "aot": 1}
"""What a node carries so that TensorRT takes the plugin where it is registered. Other runtimes ignore it."""

__all__ = ["DOMAIN", "OP_TYPE", "PLUGIN_ATTRIBUTES", "QUALIFIED_NAME", "VERSION"]
