"""What a user says about sizes, turned into TensorRT's optimisation profiles.

A profile gives each input its smallest, typical and largest shape. The names of the dynamic sizes are the manifest's; every
one must be known here. Knows no TensorRT.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import ExportError
from ...runtime.manifest import GraphSpec, Manifest
from .options import SMALLEST_PX, Limits

Range = tuple[int, int, int]
"""Smallest, typical, largest."""

TYPICAL_PROMPT_TOKENS = 128
MOST_STEPS = 1000
WITH_REFERENCES = ("transformer", "cache_signal")
PATCH_PX = 14  # the vision encoder's, where the manifest has no eyes to say it


@dataclass(frozen=True, kw_only=True)
class EngineProfile:
    """One profile: its name and each input's smallest, typical and largest shape."""

    name: str
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]

    def to_json(self) -> dict[str, Any]:
        """For the engine's key."""
        return {
            "name": self.name,
            "shapes": {name: [list(shape) for shape in given] for name, given in self.shapes.items()},
        }


def engine_profiles(graph: GraphSpec, manifest: Manifest, limits: Limits) -> tuple[EngineProfile, ...]:
    """A graph's profiles: one, or several where one would be slow. Raises ExportError for a size that has no rule here."""
    if limits.max_references > manifest.transformer.max_references:
        raise ExportError(
            f"max_references={limits.max_references}: this checkpoint takes at most {manifest.transformer.max_references}"
        )
    if graph.component == "reference_embedder" and limits.max_references == 0:
        return ()
    sizes = dynamic_sizes(manifest, limits)
    return tuple(
        EngineProfile(name=name, shapes=_shapes(graph, {**sizes, **changed}))
        for name, changed in _variants(graph.component, sizes, limits).items()
    )


def dynamic_sizes(manifest: Manifest, limits: Limits) -> dict[str, Range]:
    """Every dynamic size's range by name, for a prefill and a drawing with references."""
    facts, pixels = manifest.transformer, (SMALLEST_PX, limits.typical_size_px, limits.max_size_px)
    multiple = manifest.vae.downscale * facts.patch_size
    grid = _range(max(1, side // multiple) for side in pixels)
    latent = _range(side * facts.patch_size for side in grid)
    image = _range(side * side for side in grid)
    text = (1, min(TYPICAL_PROMPT_TOKENS, limits.max_prompt_tokens), limits.max_prompt_tokens)
    most = limits.max_references
    references = (min(1, most), image[1] * min(1, most), image[2] * most)
    patches, windows, in_window = _vision(manifest, pixels)
    # A chat holds its question, its pictures and its answer.
    context = 2 * text[2] + max(1, most) * patches[2] // 4
    return {
        "batch": (1, 1, limits.max_images),
        "steps": (1, 1, MOST_STEPS),
        "text_tokens": text,
        "image_tokens": image,
        "reference_tokens": references,
        "earlier_tokens": (0, 0, image[2] * max(0, most - 1)),
        "joint_tokens": _sum(text, references, image),
        "latent_height": latent,
        "latent_width": latent,
        "height_px": _range(side * multiple for side in grid),
        "width_px": _range(side * multiple for side in grid),
        "past_tokens": (0, 0, context),
        "total_tokens": (1, text[1], context + text[2]),
        "patches": patches,
        "windows": windows,
        "window_patches": in_window,
    }


def _variants(component: str, sizes: Mapping[str, Range], limits: Limits) -> dict[str, dict[str, Range]]:
    """The profiles of a component: for each, the sizes that aren't the usual ones."""
    text, image = sizes["text_tokens"], sizes["image_tokens"]
    if component in WITH_REFERENCES:
        alone: dict[str, Range] = {"reference_tokens": (0, 0, 0), "joint_tokens": _sum(text, image)}
        return {"text": alone, "references": {}} if limits.max_references else {"text": alone}
    if component == "token_embedding":
        return {"tokens": {"text_tokens": (1, text[1], sizes["past_tokens"][2])}}
    if component == "language_model":
        return _language(text[1], sizes["past_tokens"][2])
    return {component: {}}


def _language(typical: int, context: int) -> dict[str, dict[str, Range]]:
    """A prompt, a later turn of a chat, and a generated token. TensorRT wants past + new = total at each end of a profile."""
    none: Range = (0, 0, 0)
    prompt: Range = (1, typical, context)  # pictures included, so it may be as long as the context
    past: Range = (1, 2 * typical, context)
    token: Range = (1, 1, 1)
    before: Range = (1, 2 * typical, 2 * context)
    return {
        "prefill": {"text_tokens": prompt, "past_tokens": none, "total_tokens": prompt},
        "turn": {"text_tokens": prompt, "past_tokens": past, "total_tokens": _sum(prompt, past)},
        "decode": {"text_tokens": token, "past_tokens": before, "total_tokens": _sum(token, before)},
    }


def _vision(manifest: Manifest, pixels: Range) -> tuple[Range, Range, Range]:
    """Patches of an image, its attention windows, and patches in a window. Patches merge two by two, so sides are even.

    A long picture is cut into more windows than a square one of the same area: room for twice as many.
    """
    patch, window_px, least = PATCH_PX, 8 * PATCH_PX, 1
    if manifest.vision is not None:
        patch, window_px = manifest.vision.processor.patch_size, manifest.vision.window_px
        least = manifest.vision.processor.min_pixels
    area = _range(max(side * side, least) for side in pixels)
    grid = _range(2 * -(-math.isqrt(pixels) // (2 * patch)) for pixels in area)
    square = _range((-(-side * patch // window_px)) ** 2 for side in grid)
    in_window = (window_px // patch) ** 2
    return (4, grid[1] ** 2, grid[2] ** 2), (1, square[1], 2 * square[2]), (4, in_window, in_window)


def _shapes(graph: GraphSpec, sizes: Mapping[str, Range]) -> dict[str, Any]:
    shapes = {}
    for name, spec in graph.inputs.items():
        unknown = [dim for dim in spec.shape if isinstance(dim, str) and dim not in sizes]
        if unknown:
            raise ExportError(
                f"{graph.component}'s input {name} has the size {unknown[0]!r}, which no engine profile derives"
            )
        shapes[name] = tuple(
            tuple(dim if isinstance(dim, int) else sizes[dim][end] for dim in spec.shape) for end in range(3)
        )
    return shapes


def _range(values: Any) -> Range:
    smallest, typical, largest = values
    return int(smallest), int(typical), int(largest)


def _sum(*ranges: Range) -> Range:
    return _range(sum(ends) for ends in zip(*ranges, strict=True))
