"""The values that are allowed in a manifest: types with their rules for single fields, and the checks of several together.

A bundle may come from anywhere. The ranges are wide enough for any model of this kind, and narrow enough that no value makes the
runtime crash, hang or take all memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from .dtypes import DTYPES, PRECISIONS
from .files.bundle_paths import NameInside
from .files.schema import Length, Matches, Once, OneOf, Range

LEAST_TEMPERATURE = 1e-4
"""Below it sampling is greedy, which a manifest says by 0; logits divided by less may leave float64."""

Name = Annotated[str, Length(1, 200)]
Text = Annotated[str, Length(0, 100_000)]
Template = Annotated[str, Length(1, 100_000), Once(("{prompt}",))]
Sha256 = Annotated[str, Matches("[0-9a-f]{64}", "64 hexadecimal digits")]
ElementType = Annotated[str, OneOf(tuple(DTYPES))]
Precision = Annotated[str, OneOf(tuple(PRECISIONS))]
Component = Annotated[str, Matches("[A-Za-z0-9_]{1,64}", "a name of up to 64 letters, digits and _")]
File = Annotated[str, NameInside()]
Graph = Annotated[str, NameInside(".onnx")]
Bytes = Annotated[int, Range(0, 2**50)]
Width = Annotated[int, Range(1, 65_536)]
HeadWidth = Annotated[int, Range(2, 1024)]
Theta = Annotated[float, Range(1, 1e12)]
Factor = Annotated[float, Range(1e-6, 1e6)]
MropePairs = Annotated[int, Range(0, 2048)]
Mean = Annotated[float, Range(-1000, 1000)]
PreviewWeight = Annotated[float, Range(-1000, 1000)]
TokenId = Annotated[int, Range(0, 2**31 - 1)]


LEAST_TOKEN_PX = 4
"""The smallest side of a token in pixels: smaller ones take gigabytes for the rope tables of a picture."""
MOST_PATCHES = 2**18
"""The most patches of a picture: Qwen2.5-VL's largest picture has 65,536."""


def contradictions(manifest: Any) -> Iterator[str]:
    """Fields that are allowed alone and not together: each place, what stands there and what is allowed.

    manifest: a `Manifest`, whose module imports this one.
    """
    mllm, axes = manifest.mllm, manifest.transformer.rope_axes
    if any(width % 2 for width in axes):
        yield f"transformer.rope_axes is {axes}; allowed are even widths"
    if 2 * sum(mllm.mrope_section) != mllm.head_width:
        yield f"mllm.mrope_section sums to {sum(mllm.mrope_section)}; allowed is half of head_width, {mllm.head_width / 2:g}"
    if manifest.token_px < LEAST_TOKEN_PX:
        yield f"vae.downscale × transformer.patch_size is {manifest.token_px}; allowed is {LEAST_TOKEN_PX} or more"
    if manifest.vae.latent_rgb and len(manifest.vae.latent_rgb) != (rows := manifest.transformer.latent_channels + 1):
        yield f"vae.latent_rgb has {len(manifest.vae.latent_rgb)} entries; allowed are none, or {rows}"
    if manifest.vision is not None:
        yield from _vision_contradictions(manifest.vision)
    if manifest.chat is not None:
        yield from _token_contradictions(manifest.chat, manifest.graphs)
        if 0 < manifest.chat.temperature < LEAST_TEMPERATURE:
            yield f"chat.temperature is {manifest.chat.temperature}; allowed is 0, or {LEAST_TEMPERATURE} to 100"
    for number, graph in enumerate(manifest.graphs):
        if (graph.inlined is None) != (graph.inlined_sha256 is None):
            yield f"graphs[{number}] has one of inlined and inlined_sha256; allowed are both or neither"
        if graph.rounded_bytes > (most := graph.resident_bytes):
            yield f"graphs[{number}].rounded_bytes is {graph.rounded_bytes}; allowed is 0 to resident_bytes, {most}"


def _token_contradictions(chat: Any, graphs: Sequence[Any]) -> Iterator[str]:
    """Token ids that the model has no logit for."""
    logits = [graph.outputs["logits"].shape for graph in graphs if graph.component == "lm_head" and "logits" in graph.outputs]
    sizes = [shape[-1] for shape in logits if shape and isinstance(shape[-1], int)]
    for name in ("image_token_id", "draw_token_id"):
        number = getattr(chat, name)
        if sizes and number is not None and number >= min(sizes):
            yield f"chat.{name} is {number}; allowed is 0 to {min(sizes) - 1}, as lm_head gives {min(sizes)} logits"


def _vision_contradictions(vision: Any) -> Iterator[str]:
    processor = vision.processor
    token_px = processor.patch_size * processor.merge_size
    patches = processor.max_pixels // processor.patch_size**2
    if patches > MOST_PATCHES:
        yield f"vision.processor.max_pixels is {patches} patches; allowed are {MOST_PATCHES}"
    if vision.head_width % 4:
        yield f"vision.head_width is {vision.head_width}; allowed are multiples of 4"
    if vision.window_px < token_px:
        yield f"vision.window_px is {vision.window_px}; allowed is a token's side, {token_px}, or more"
    if processor.min_pixels > processor.max_pixels:
        yield f"vision.processor.min_pixels is {processor.min_pixels}; allowed is 1 to max_pixels, {processor.max_pixels}"
