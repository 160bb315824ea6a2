"""The node as `torch.onnx.export` writes it. Knows torch's tracer; the runtime never imports this file.

The model's attention takes its rotation as a callable; the exporter passes `emit` and the trace holds one OmniRope node
in place of a dozen operators. The function of `function.py` must then be added to the exported model: torch doesn't
know it.
"""

from __future__ import annotations

import torch

from . import PLUGIN_ATTRIBUTES, QUALIFIED_NAME, VERSION


def emit(x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Put an OmniRope node into the graph being exported. Outside an export the result's values mean nothing.

    x: (B, S, H, Dh); weight: (Dh,); cos, sin: (S, Dh/2) float32. Gives (B, H, S, Dh) of x's dtype.
    """
    batch, tokens, heads, width = x.shape
    return torch.onnx.ops.symbolic(
        QUALIFIED_NAME,
        (x, weight, cos, sin),
        {"epsilon": float(epsilon), **PLUGIN_ATTRIBUTES},
        dtype=x.dtype,
        shape=(batch, heads, tokens, width),
        version=VERSION,
    )
