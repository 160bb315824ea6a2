"""ComfyUI's IMAGE and our pictures. An IMAGE is a torch tensor (B, H, W, C) of floats in 0..1. Knows no node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from omnigen2_rt import RequestError


def arrays_of(name: str, image: torch.Tensor) -> list[NDArray[np.uint8]]:
    """The pictures of an IMAGE, each (H, W, C) uint8; values outside 0..1 are clipped.

    image: (B, H, W, C) with 1, 3 or 4 channels; (H, W, C) is taken as a batch of one.
    Raises RequestError for another shape, and for NaN, which a failed model leaves behind.
    """
    batch = image[None] if image.ndim == 3 else image
    if batch.ndim != 4 or batch.shape[3] not in (1, 3, 4):
        raise RequestError(f"{name} has shape {tuple(image.shape)}; an image is (B, H, W, C) with 1, 3 or 4 channels")
    values = batch.detach().to("cpu", torch.float32).numpy()
    if np.isnan(values).any():
        raise RequestError(f"{name} holds NaN: look at the node that made it")
    return list(np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8))


def image_of(pictures: Sequence[Image.Image]) -> torch.Tensor:
    """Pictures of one size as an IMAGE (B, H, W, 3) float32. Reading it back gives the same bytes."""
    pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in pictures])
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(255))


def joined(images: Iterable[tuple[str, torch.Tensor | None]]) -> list[NDArray[np.uint8]]:
    """The pictures of several inputs, each given by its name, in order. An input may be left out or hold a batch."""
    return [array for name, image in images if image is not None for array in arrays_of(name, image)]
