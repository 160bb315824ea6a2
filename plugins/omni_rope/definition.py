"""The definition of Omni-RoPE in numpy, against which the tests check every other form of the operator.

Knows nothing of graphs or devices, nor how the position tables are computed. The rotation is that of Su et al., RoFormer
(arXiv 2104.09864), eq. 34, with pairs of neighbouring channels; the norm before it is RMSNorm (Zhang and Sennrich, arXiv
1910.07467).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def omni_rope(
    x: npt.NDArray[Any],
    weight: npt.NDArray[Any],
    cos: npt.NDArray[np.float32],
    sin: npt.NDArray[np.float32],
    epsilon: float,
) -> npt.NDArray[Any]:
    """Normalize each head, rotate its channel pairs by the token's angles, and put heads before tokens.

    x: (B, S, H, Dh) float32, float16 or bfloat16; weight: (Dh,) of any of these; cos, sin: (S, Dh/2) float32.
    Returns (B, H, S, Dh) of x's dtype. Computes in float32 and rounds once at the end.
    """
    heads = x.astype(np.float32)
    mean_square: npt.NDArray[np.float32] = np.mean(np.square(heads), axis=-1, keepdims=True)
    root: npt.NDArray[np.float32] = np.sqrt(mean_square + np.float32(epsilon))
    normalized = heads / root * weight.astype(np.float32)
    rotated = rotate_pairs(normalized, cos[:, None, :], sin[:, None, :])
    return np.ascontiguousarray(rotated.transpose(0, 2, 1, 3)).astype(x.dtype)


def rotate_pairs(
    heads: npt.NDArray[np.float32], cos: npt.NDArray[np.float32], sin: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Rotate each pair (x[2i], x[2i+1]) by its angle. heads: (..., Dh); cos, sin: broadcastable to (..., Dh/2)."""
    even, odd = heads[..., 0::2], heads[..., 1::2]
    pairs = np.stack((even * cos - odd * sin, even * sin + odd * cos), axis=-1)
    return pairs.reshape(heads.shape)
