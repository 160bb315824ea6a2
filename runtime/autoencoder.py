"""Pictures to latents and back, through the VAE. Latents are (B, C, h, w) float32 in the transformer's scaled space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .components import Components
from .errors import BackendError
from .images.pixels import Size, to_pixels, to_resized_images


def encode_image(components: Components, image: Image.Image, size: Size) -> NDArray[np.float32]:
    """An RGB image, resized to `size`, as latents (1, C, h, w): the mode of the VAE's distribution."""
    vae = components.bundle.manifest.vae
    mean = components.encode_pixels(to_pixels(image, size))
    scaled: NDArray[np.float32] = (mean - np.float32(vae.shift_factor)) * np.float32(vae.scaling_factor)
    return scaled


def decode_images(components: Components, latents: NDArray[np.float32], size: Size) -> list[Image.Image]:
    """Latents (B, C, h, w) as B RGB images of `size`. Raises BackendError where the pixels aren't finite."""
    vae = components.bundle.manifest.vae
    pixels = components.decode_latents(latents / np.float32(vae.scaling_factor) + np.float32(vae.shift_factor))
    if not np.isfinite(pixels).all():
        raise BackendError(f"the decoded picture isn't finite in {components.backend.precision}: try precision fp32")
    return to_resized_images(pixels, size)
