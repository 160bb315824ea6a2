"""TensorRT's optimisation profiles, from the limits that a user sets.

A profile gives each input its smallest, typical and largest shape. Dynamic sizes have the manifest's names, and each needs a
rule here. Knows no TensorRT and no components: profiles follow from a graph's inputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...runtime.errors import ExportError
from ...runtime.manifest import GraphSpec, Manifest
from .options import SMALLEST_PX, Limits

Range = tuple[int, int, int]
"""Smallest, typical, largest."""

ShapeRange = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""An input's smallest, typical and largest shape."""

TYPICAL_PROMPT_TOKENS = 128
MAX_STEPS = 1000
PATCH_PX = 14  # stands in where the manifest has no vision encoder


@dataclass(frozen=True, kw_only=True)
class EngineProfile:
    """One profile.

    sizes: the range of every dynamic size, also of those that the graph lacks.
    shapes: by input.
    """

    name: str
    sizes: dict[str, Range]
    shapes: dict[str, ShapeRange]

    @property
    def largest_sizes(self) -> dict[str, int]:
        return {name: largest for name, (_, _, largest) in self.sizes.items()}

    def to_json(self) -> dict[str, Any]:
        """The profile as part of an engine's key."""
        shapes = {name: [list(shape) for shape in shapes] for name, shapes in self.shapes.items()}
        return {"name": self.name, "shapes": shapes}


def engine_profiles(graph: GraphSpec, manifest: Manifest, limits: Limits) -> tuple[EngineProfile, ...]:
    """A graph's profiles: several where a single one would be slow, none where the limits leave the graph unused.

    Raises ExportError for a size that has no rule here, and for more references than the checkpoint takes.
    """
    if limits.max_references > manifest.transformer.max_references:
        raise ExportError(
            f"max_references={limits.max_references}: this checkpoint takes at most {manifest.transformer.max_references}"
        )
    usual = dynamic_sizes(manifest, limits)
    variants = {name: {**usual, **overrides} for name, overrides in _variants(graph, usual, limits).items()}
    return tuple(EngineProfile(name=name, sizes=sizes, shapes=_shapes(graph, sizes)) for name, sizes in variants.items())


def dynamic_sizes(manifest: Manifest, limits: Limits) -> dict[str, Range]:
    """The range of every dynamic size by name, for a prefill and for an image with references."""
    most = limits.max_references
    text = (1, min(TYPICAL_PROMPT_TOKENS, limits.max_prompt_tokens), limits.max_prompt_tokens)
    grid = _token_grid(manifest, limits)
    image = _range(side * side for side in grid)
    references = (min(1, most), image[1] * min(1, most), image[2] * most)
    latent = _range(side * manifest.transformer.patch_size for side in grid)
    side_px = _range(side * manifest.vae.downscale for side in latent)
    patches, windows, window_patches = _vision(manifest, limits)
    context = 2 * text[2] + max(1, most) * patches[2] // 4  # a chat's question, its images and its answer
    return {
        "batch": (1, 1, limits.max_images),
        "steps": (1, 1, MAX_STEPS),
        "text_tokens": text,
        "image_tokens": image,
        "reference_tokens": references,
        "earlier_tokens": (0, 0, image[2] * max(0, most - 1)),
        "joint_tokens": _sum(text, references, image),
        "latent_height": latent,
        "latent_width": latent,
        "height_px": side_px,
        "width_px": side_px,
        "past_tokens": (0, 0, context),
        "total_tokens": (1, text[1], context + text[2]),
        "patches": patches,
        "windows": windows,
        "window_patches": window_patches,
    }


def _variants(graph: GraphSpec, sizes: Mapping[str, Range], limits: Limits) -> dict[str, dict[str, Range]]:
    """A graph's profiles by name, each with the sizes in which it differs from `sizes`."""
    names = {dim for spec in graph.inputs.values() for dim in spec.shape}
    text, context = sizes["text_tokens"], sizes["past_tokens"][2]
    if "earlier_tokens" in names and limits.max_references == 0:
        return {}
    if "reference_tokens" in names:
        text_only: dict[str, Range] = {
            "reference_tokens": (0, 0, 0),
            "joint_tokens": _sum(text, sizes["image_tokens"]),
        }
        return {"text": text_only, "references": {}} if limits.max_references else {"text": text_only}
    if "input_ids" in graph.inputs:
        return {"tokens": {"text_tokens": (1, text[1], context)}}
    if "past_tokens" in names:
        return _language_model_variants(text[1], context)
    return {graph.component: {}}


def _language_model_variants(typical: int, context: int) -> dict[str, dict[str, Range]]:
    """The profiles of a prompt, of a later turn of a chat, and of a generated token.

    TensorRT wants past + new = total at each end of a profile. The generated token's allows for two: with exactly one, TensorRT
    for RTX 1.7 keeps a second copy of two thirds of the weights for it (OmniGen2's language model: a plan of 9.2 GB, not 5.6 GB).
    """
    no_past: Range = (0, 0, 0)
    prompt: Range = (1, typical, context)  # images included, so it may be as long as the context
    turn_past: Range = (1, 2 * typical, context)
    token: Range = (1, 1, 2)
    token_past: Range = (1, 2 * typical, 2 * context)
    return {
        "prefill": {"text_tokens": prompt, "past_tokens": no_past, "total_tokens": prompt},
        "turn": {"text_tokens": prompt, "past_tokens": turn_past, "total_tokens": _sum(prompt, turn_past)},
        "decode": {"text_tokens": token, "past_tokens": token_past, "total_tokens": _sum(token, token_past)},
    }


def _token_grid(manifest: Manifest, limits: Limits) -> Range:
    """Tokens along a side of an image."""
    return _range(max(1, side_px // manifest.token_px) for side_px in _sides_px(limits))


def _vision(manifest: Manifest, limits: Limits) -> tuple[Range, Range, Range]:
    """The ranges of an image's patches, of its attention windows, and of the patches in a window.

    Patches merge two by two, so sides are even. A long image has more windows than a square one of the same area: the largest
    value allows for twice as many.
    """
    patch_px, window_px, min_pixels = PATCH_PX, 8 * PATCH_PX, 1
    if manifest.vision is not None:
        processor = manifest.vision.processor
        patch_px, window_px, min_pixels = processor.patch_size, manifest.vision.window_px, processor.min_pixels
    areas = _range(max(side_px * side_px, min_pixels) for side_px in _sides_px(limits))
    grid = _range(2 * -(-math.isqrt(area) // (2 * patch_px)) for area in areas)
    windows = _range((-(-side * patch_px // window_px)) ** 2 for side in grid)
    window_patches = (window_px // patch_px) ** 2
    return (4, grid[1] ** 2, grid[2] ** 2), (1, windows[1], 2 * windows[2]), (4, window_patches, window_patches)


def _sides_px(limits: Limits) -> Range:
    return SMALLEST_PX, limits.typical_size_px, limits.max_size_px


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


def _range(values: Iterable[int]) -> Range:
    smallest, typical, largest = values
    return int(smallest), int(typical), int(largest)


def _sum(*ranges: Range) -> Range:
    return _range(sum(ends) for ends in zip(*ranges, strict=True))
