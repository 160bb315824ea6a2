"""Classifier-free guidance over text and images: which branches a step runs and how their velocities combine.

    cond     the prompt, with the references
    ref      the negative prompt, with the references
    uncond   the negative prompt alone

The rule is OmniGen2's (omnigen2/pipelines/omnigen2/pipeline_omnigen2.py). Knows nothing of the network that is run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

BRANCHES = ("cond", "ref", "uncond")


def sees_references(branch: str) -> bool:
    """Whether a branch is shown the input images."""
    return branch != "uncond"


def uses_negative_prompt(branch: str) -> bool:
    """Whether a branch is shown the negative prompt instead of the prompt."""
    return branch != "cond"


def branches(
    step_index: int,
    steps: int,
    *,
    text_guidance: float,
    image_guidance: float,
    cfg_range: tuple[float, float],
    has_images: bool,
) -> tuple[str, ...]:
    """The branches that step `step_index` of `steps` runs, in order: three, two, or only "cond".

    Outside `cfg_range` (inclusive, on step_index / steps), and whenever text_guidance <= 1, there is one: the image
    scale alone guides nothing. Without images "ref" would equal "uncond" and is left out.
    """
    first, last = cfg_range
    if text_guidance <= 1 or not first <= step_index / steps <= last:
        return ("cond",)
    return ("cond", "ref", "uncond") if has_images and image_guidance > 1 else ("cond", "uncond")


def combine(
    velocities: Mapping[str, NDArray[np.float32]], *, text_guidance: float, image_guidance: float
) -> NDArray[np.float32]:
    """The guided velocity from those of the branches that ran.

    velocities: by branch, each (B, C, h, w) float32. Returns (B, C, h, w) float32.
    """
    text, image = np.float32(text_guidance), np.float32(image_guidance)
    guided = cond = velocities["cond"]
    if "ref" in velocities:
        ref, uncond = velocities["ref"], velocities["uncond"]
        guided = uncond + image * (ref - uncond) + text * (cond - ref)
    elif "uncond" in velocities:
        uncond = velocities["uncond"]
        guided = uncond + text * (cond - uncond)
    return guided
