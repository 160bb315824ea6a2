"""The operator for `torch.onnx.export`. Knows torch's tracer; the runtime never imports this file.

The model's attention takes its rotation as a callable. The exporter passes `emit`, and the exported graph holds one OmniRope
node in place of a dozen operators. The exporter must add the function of `function.py` to the model.
"""

from __future__ import annotations

import torch

from . import PLUGIN_ATTRIBUTES, QUALIFIED_NAME, VERSION


def emit(x: torch.Tensor, weight: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Add an OmniRope node to the graph that is being exported. Outside an export the result holds no meaningful values.

    x: (B, S, H, Dh); weight: (Dh,); cos, sin: (S, Dh/2) float32. Returns (B, H, S, Dh) of x's dtype.
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
