"""Omni-RoPE (OmniGen2 paper, arXiv 2506.18871, section 3.2): three-axis positions, their tables, and the rotation.

Knows nothing of the network around it. The tables follow the formula, so no position is out of range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

Rope = Callable[[Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""``rope(x, weight, cos, sin, eps)``: x (B,S,H,Dh), weight (Dh), cos and sin (S,Dh/2) float32 -> (B,H,S,Dh)."""

Grid = tuple[int, int]
"""Rows and columns of an image in tokens (latent pixels divided by the patch size)."""


def omni_rope(x: Tensor, weight: Tensor, cos: Tensor, sin: Tensor, eps: float) -> Tensor:
    """RMS norm of each head, rotation of its interleaved pairs, and the transpose for attention.

    Computes in float32 and rounds once at the end. Tables of (B, S, Dh/2) allow a batch of different prompts.

    x: (B, S, H, Dh); weight: (Dh); cos, sin: (S, Dh/2) or (B, S, Dh/2) float32. Returns (B, H, S, Dh) of x's dtype.
    """
    heads = F.rms_norm(x.float(), weight.shape, weight.float(), eps)
    even, odd = heads.reshape(*heads.shape[:-1], -1, 2).unbind(-1)
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    rotated = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return rotated.flatten(-2).to(x.dtype).transpose(1, 2)


def rope_tables(positions: Tensor, axes_dim: Iterable[int], theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of every position's angles, the axes side by side; computed in float64.

    positions: (..., axes) integers; axes_dim: the part of the head that each axis rotates.
    Returns cos, sin: (..., sum(axes_dim)/2) float32.
    """
    angles = [
        positions[..., axis, None].double() * _frequencies(dim, theta, positions.device)
        for axis, dim in enumerate(axes_dim)
    ]
    joined = torch.cat(angles, dim=-1)
    return joined.cos().float(), joined.sin().float()


def position_ids(
    text_tokens: int, reference_grids: Iterable[Grid], image_grid: Grid, padded_text_tokens: int | None = None
) -> Tensor:
    """Positions of the joint sequence: text, references in order, image.

    Text token i is at (i, i, i). An image's token is at (shift, row, column). The first image's shift is the text's
    length; each next one's is larger by the longer side of the image before it.

    padded_text_tokens: the text's rows in a padded batch. Those past `text_tokens` are at (0, 0, 0) and must be masked;
    they don't move the images.
    Returns (S, 3) int64.
    """
    text = torch.arange(text_tokens).unsqueeze(-1).expand(-1, 3)
    padding = torch.zeros((padded_text_tokens or text_tokens) - text_tokens, 3, dtype=torch.int64)
    parts, shift = [text, padding], text_tokens
    for grid in (*reference_grids, image_grid):
        parts.append(_grid_positions(shift, grid))
        shift += max(grid)
    return torch.cat(parts)


def _frequencies(dim: int, theta: float, device: torch.device) -> Tensor:
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=device) / dim
    return torch.pow(torch.tensor(theta, dtype=torch.float64, device=device), -exponents)


def _grid_positions(shift: int, grid: Grid) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    return torch.stack((torch.full_like(rows, shift), rows, columns), dim=-1).flatten(0, 1)
