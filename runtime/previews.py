"""Small pictures of a drawing under way, without the autoencoder's decoder: a linear map from latents to colours.

It is fitted at export on what the encoder gives, and suits the clean estimate of a step (`Step.estimate`): noisy latents show
nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .manifest import VAEParameters


def preview_images(vae: VAEParameters, latents: NDArray[np.float32]) -> list[Image.Image]:
    """A picture of a pixel for each latent pixel: (B, C, h, w) float32 gives B of w × h. None where the bundle has no map."""
    if not vae.latent_rgb:
        return []
    weights = np.asarray(vae.latent_rgb, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        colours = np.tensordot(latents, weights[:-1], axes=(1, 0)) + weights[-1]
        pixels = np.rint(np.nan_to_num(np.clip(colours, 0, 1)) * 255).astype(np.uint8)
    return [Image.fromarray(picture) for picture in pixels]
