"""Fits the linear map from latents to colours that the runtime shows previews with (`runtime/previews.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..reference.weights import load_vae

PICTURES, SIDE_LATENTS, SHAPES = 16, 12, 5
RIDGE = 1e-3
"""A part of the mean squared latent: channels that hardly vary get small weights."""
LARGEST_WEIGHT = 1000.0
DECIMALS = 4

LatentRGB = tuple[tuple[float, float, float], ...]


def fit_latent_rgb(checkpoint: Path) -> LatentRGB:
    """`VAEParameters.latent_rgb` of a checkpoint: least squares on what its VAE's encoder gives for synthetic pictures.

    Empty where no weights of a usable size fit, as for an encoder with random weights.
    """
    vae = load_vae(checkpoint)
    config = vae.config
    pixels = training_pictures(SIDE_LATENTS * config.pixels_per_latent)
    with torch.no_grad():
        means = [vae.encode(torch.from_numpy(picture[None] * 2 - 1))[0].float() for picture in pixels]
    latents = (torch.cat(means).numpy() - np.float32(config.shift_factor or 0.0)) * np.float32(config.scaling_factor)
    weights = solve(latents, area_means(pixels, config.pixels_per_latent))
    if not np.isfinite(weights).all() or np.abs(weights).max() > LARGEST_WEIGHT:
        return ()
    return tuple((round(float(r), DECIMALS), round(float(g), DECIMALS), round(float(b), DECIMALS)) for r, g, b in weights)


def solve(latents: NDArray[np.float32], colours: NDArray[np.float32]) -> NDArray[np.float64]:
    """The weights (C + 1, 3), the last row the offsets, that bring latents (N, C, h, w) closest to colours (N, 3, h, w)."""
    channels = latents.shape[1]
    rows = np.moveaxis(latents, 1, -1).reshape(-1, channels).astype(np.float64)
    targets = np.moveaxis(colours, 1, -1).reshape(-1, 3).astype(np.float64)
    means = rows.mean(axis=0), targets.mean(axis=0)
    centred, wanted = rows - means[0], targets - means[1]
    gram = centred.T @ centred
    gram[np.diag_indices(channels)] += RIDGE * np.trace(gram) / channels + 1e-12
    weights: NDArray[Any] = np.linalg.solve(gram, centred.T @ wanted)
    return np.vstack([weights, means[1] - means[0] @ weights])


def area_means(pictures: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Pictures (N, 3, H, W) made smaller by a factor: the mean of each square."""
    count, channels, height, width = pictures.shape
    squares = pictures.reshape(count, channels, height // factor, factor, width // factor, factor)
    means: NDArray[np.float32] = squares.mean(axis=(3, 5))
    return means


def training_pictures(side_px: int) -> NDArray[np.float32]:
    """Pictures (N, 3, H, W) float32 in [0, 1]: smooth fields of colour, with rectangles and discs of plain colours on them."""
    random = np.random.default_rng(0)
    return np.stack([_picture(side_px, random) for _ in range(PICTURES)]).astype(np.float32)


def _picture(side: int, random: np.random.Generator) -> NDArray[np.float64]:
    rows, columns = np.mgrid[0:side, 0:side] / side
    picture = np.empty((3, side, side))
    for channel in picture:
        waves = [
            np.sin(2 * np.pi * (random.normal(0, 2) * rows + random.normal(0, 2) * columns + random.random())) for _ in range(3)
        ]
        channel[:] = random.random() + 0.3 * np.mean(waves, axis=0)
    for _ in range(SHAPES):
        top, left, size = random.random(), random.random(), random.uniform(0.1, 0.4)
        is_disc = random.random() < 0.5
        inside = (
            (rows - top) ** 2 + (columns - left) ** 2 < size**2 / 4
            if is_disc
            else (abs(rows - top) < size / 2) & (abs(columns - left) < size / 2)
        )
        picture[:, inside] = random.random(3)[:, None]
    return np.clip(picture, 0, 1)
