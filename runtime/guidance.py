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

Plan = tuple[tuple[str, ...], ...]
"""The branches of each step of a drawing, in the order in which they run."""


def has_references(branch: str) -> bool:
    """Whether a branch is conditioned on the input images."""
    return branch != "uncond"


def has_negative_prompt(branch: str) -> bool:
    """Whether a branch is conditioned on the negative prompt instead of the prompt."""
    return branch != "cond"


def plan_branches(
    steps: int, *, text_guidance: float, image_guidance: float, cfg_range: tuple[float, float], has_images: bool
) -> Plan:
    """The branches of every step: three, two, or only "cond".

    Outside `cfg_range` (inclusive, on index / steps), and whenever text_guidance <= 1, there is one: the image scale alone
    guides nothing. Without images "ref" would equal "uncond" and is left out.
    """
    first, last = cfg_range
    guided = ("cond", "ref", "uncond") if has_images and image_guidance > 1 else ("cond", "uncond")
    is_guided = (text_guidance > 1 and first <= index / steps <= last for index in range(steps))
    return tuple(guided if guides else ("cond",) for guides in is_guided)


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
