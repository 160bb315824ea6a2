"""The manifest of a bundle, `bundle.json`: its form, and how it is read and checked.

Every number about the model that the runtime needs stands in it; none stands in the code. Knows nothing of the files beside it,
of the tools that wrote it or of the engines that will run it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from .errors import BundleError, shown
from .files.json_text import parse_json
from .files.schema import Length, Once, Range, parse
from .manifest_values import (
    Bytes,
    Component,
    ElementType,
    Factor,
    File,
    Graph,
    HeadWidth,
    Mean,
    MropePairs,
    Name,
    Precision,
    PreviewWeight,
    Sha256,
    Template,
    Text,
    Theta,
    TokenId,
    Width,
    contradictions,
)

MANIFEST = "bundle.json"
FORMAT_VERSION = 2
TRAITS_BEFORE_2: dict[str, dict[str, bool]] = {
    "timestep_embedding": {"keeps_float32": True},
    "velocity_head": {"keeps_float32": True},
    "latent_embedder": {"picture_rows": True},
    "reference_embedder": {"picture_rows": True},
    "transformer": {"picture_rows": True, "repeats_shapes": True},
}
"""Fields of `GraphSpec` that format 1 left out, by component."""


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph.

    dtype: an element type's name, see `dtypes.py`.
    shape: its sizes; a name is a dynamic size.
    """

    dtype: ElementType
    shape: Annotated[tuple[Annotated[int, Range(0, 2**40)] | Name, ...], Length(0, 16)]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """One graph file: a component in a precision.

    weight_bytes: its weights as stored.
    resident_bytes: its weights in the type that it computes in, as a runtime may hold them.
    inlined: the same graph without local functions, where it has any.
    rounded_bytes: the part of resident_bytes that are quantized weights and their scales: held as they are stored.
    keeps_float32: computed in float32 whatever the precision: it is cheap, and its rounding error reaches every step.
    picture_rows: its products have a row for each token of a picture, hundreds or more.
    repeats_shapes: a drawing runs it many times with the same shapes.
    """

    component: Component
    precision: Precision
    file: Graph
    sha256: Sha256
    inputs: dict[Name, TensorSpec]
    outputs: dict[Name, TensorSpec]
    weight_bytes: Bytes
    resident_bytes: Bytes
    inlined: Graph | None = None
    inlined_sha256: Sha256 | None = None
    rounded_bytes: Bytes = 0
    keeps_float32: bool = False
    picture_rows: bool = False
    repeats_shapes: bool = False


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file of the bundle that isn't a graph.

    sha256: of every byte.
    header_sha256: of a safetensors file's header.
    """

    file: File
    size_bytes: Bytes
    sha256: Sha256
    header_sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class TransformerParameters:
    """The diffusion transformer's numbers.

    rope_axes: the width of a head on each axis.
    teacache_coefficients: of TeaCache's polynomial, highest power first.
    """

    hidden_size: Width
    latent_channels: Annotated[int, Range(1, 256)]
    patch_size: Annotated[int, Range(1, 64)]
    rope_axes: tuple[HeadWidth, HeadWidth, HeadWidth]
    rope_theta: Theta
    max_references: Annotated[int, Range(0, 1000)]
    teacache_coefficients: Annotated[tuple[float, ...], Length(1, 32)]


@dataclass(frozen=True, kw_only=True)
class VAEParameters:
    """The autoencoder's numbers. The transformer's latents are (latents - shift_factor) * scaling_factor.

    downscale: pixels to a latent pixel.
    sample_px: the side of the pictures that the model was trained for: the default size of a drawing.
    latent_rgb: red, green and blue, 0 to 1, of each latent channel's value and, last, their offsets: a linear map for previews
        (`previews.py`). Empty in bundles of before.
    """

    downscale: Annotated[int, Range(1, 256)]
    scaling_factor: Factor
    shift_factor: Annotated[float, Range(-1e6, 1e6)]
    sample_px: Annotated[int, Range(1, 4096)] = 1024
    latent_rgb: Annotated[tuple[tuple[PreviewWeight, PreviewWeight, PreviewWeight], ...], Length(0, 257)] = ()


@dataclass(frozen=True, kw_only=True)
class MLLMParameters:
    """The language model's numbers, for its KV cache and its rope tables."""

    hidden_size: Width
    layers: Annotated[int, Range(1, 1000)]
    kv_heads: Annotated[int, Range(1, 4096)]
    head_width: HeadWidth
    rope_theta: Theta
    mrope_section: tuple[MropePairs, MropePairs, MropePairs]


@dataclass(frozen=True, kw_only=True)
class SchedulerParameters:
    """The scheduler's numbers.

    dynamic_time_shift: whether the schedule depends on the latents' size.
    """

    dynamic_time_shift: bool


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Templates with `{prompt}` where the text goes, rendered from the checkpoint's own chat template."""

    drawing: Template


@dataclass(frozen=True, kw_only=True)
class ImageProcessorParameters:
    """The numbers of the image processor, named as in preprocessor_config.json.

    patch_size: the side of a patch in pixels.
    temporal_patch_size: the frames of a patch; a still picture is repeated.
    merge_size: merge_size² patches become one token.
    min_pixels, max_pixels: the area that a picture is resized to.
    resample: PIL's number of the filter.
    """

    patch_size: Annotated[int, Range(1, 256)]
    temporal_patch_size: Annotated[int, Range(1, 16)]
    merge_size: Annotated[int, Range(1, 16)]
    min_pixels: Annotated[int, Range(1, 2**22)]
    max_pixels: Annotated[int, Range(1, 2**25)]
    image_mean: tuple[Mean, Mean, Mean]
    image_std: tuple[Factor, Factor, Factor]
    rescale_factor: Factor
    resample: Annotated[int, Range(0, 5)]


@dataclass(frozen=True, kw_only=True)
class VisionParameters:
    """The vision encoder's numbers.

    processor: the image processor's parameters.
    head_width: of the rope tables.
    window_px: a window's side.
    """

    processor: ImageProcessorParameters
    head_width: HeadWidth
    window_px: Annotated[int, Range(1, 65_536)]


@dataclass(frozen=True, kw_only=True)
class ReflectionPrompts:
    """The questions of reflection, with `{prompt}` for the request. Raises BundleError for one without its placeholders.

    critique: asks what is wrong with the picture.
    edit: asks for the instruction that corrects it; `{critique}` is the answer to the first.
    judge: asks for a grade, a number, higher being better.
    content: a critique that starts with this text, in any case of letters, finds nothing wrong.
    """

    critique: Text
    edit: Text
    judge: Text
    content: Text

    def __post_init__(self) -> None:
        for name in ("critique", "judge"):
            if "{prompt}" not in getattr(self, name):
                raise BundleError(f"the reflection prompt {name!r} does not hold {{prompt}}")
        if "{prompt}" not in self.edit and "{critique}" not in self.edit:
            raise BundleError("the reflection prompt 'edit' holds neither {critique} nor {prompt}")
        if not self.content.strip():
            raise BundleError("the reflection prompt 'content' is empty: every critique would count as content")


@dataclass(frozen=True, kw_only=True)
class ChatParameters:
    """The MLLM's chat: its templates, its special tokens and its generation_config.json.

    first_turn: the template of the first question; holds `{prompt}` once and ends where the answer begins.
    next_turn: the template of a later question; it starts after the last answer's text.
    image_tag: stands for an image; holds `{number}` and the image token.
    draw_token_id: an answer that starts with it asks for a picture; None: this model never draws in a chat.
    stop_token_ids: end an answer.
    temperature: 0 is greedy.
    top_p: 1 keeps all tokens.
    top_k: 0 keeps all tokens.
    """

    first_turn: Template
    next_turn: Template
    image_tag: Annotated[str, Length(1, 1000), Once(("{number}",))]
    image_token_id: TokenId
    draw_token_id: TokenId | None
    stop_token_ids: Annotated[tuple[TokenId, ...], Length(0, 1000)]
    max_context_tokens: Annotated[int, Range(1, 10**8)]
    temperature: Annotated[float, Range(0, 100)]
    top_p: Annotated[float, Range(1e-6, 1)]
    top_k: Annotated[int, Range(0, 2**31 - 1)]
    repetition_penalty: Annotated[float, Range(0.01, 100)]
    reflection: ReflectionPrompts


@dataclass(frozen=True, kw_only=True)
class MergedLora:
    """A LoRA that is merged into the transformer's weights.

    name: of its file or folder.
    sha256: of its safetensors file.
    scale: multiplies its change.
    settings_sha256: of PEFT's settings beside that file, where there are any.
    """

    name: Annotated[str, Length(1, 1000)]
    sha256: Sha256
    scale: float
    settings_sha256: Sha256 | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of `bundle.json`.

    source: the name of the checkpoint.
    tools: the versions of what wrote it.
    tokenizer: the tokenizer's file.
    chat: None where the bundle can only draw.
    vision: None where it can't read pictures.
    source_weights: SHA-256 of the checkpoint's own weight files by their names in the bundle; empty in bundles of before.
    loras: the LoRAs that are merged into the weights, in their order.
    merged_from: SHA-256 of the `bundle.json` of the bundle that LoRAs were merged into; None for one that was exported.
    """

    format_version: int
    source: Annotated[str, Length(0, 4096)]
    tools: Annotated[dict[Name, Annotated[str, Length(0, 1000)]], Length(0, 100)]
    transformer: TransformerParameters
    vae: VAEParameters
    mllm: MLLMParameters
    scheduler: SchedulerParameters
    prompts: Prompts
    tokenizer: File
    graphs: Annotated[tuple[GraphSpec, ...], Length(0, 1000)]
    files: Annotated[tuple[FileSpec, ...], Length(0, 10_000)]
    chat: ChatParameters | None = None
    vision: VisionParameters | None = None
    source_weights: dict[File, Sha256] = field(default_factory=dict)
    loras: Annotated[tuple[MergedLora, ...], Length(0, 1000)] = ()
    merged_from: Sha256 | None = None

    @property
    def token_px(self) -> int:
        """Pixels to a token's side: drawn sizes are multiples of it."""
        return self.vae.downscale * self.transformer.patch_size

    def to_json(self) -> str:
        """The manifest as the text of `bundle.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Manifest:
        """Parse and check. Raises BundleError for anything that isn't a manifest of this version, naming the place in it."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise BundleError(f"{where} can't be read: it {error}: export the bundle again") from None
        version = data.get("format_version") if isinstance(data, dict) else None
        if version is None:
            raise BundleError(f"{where} has no format_version: it is not a bundle's manifest")
        if type(version) is not int or version < 1:
            reason = "not a whole number of 1 or more: export the bundle again"
            raise BundleError(f"{where} has format_version {shown(version)}, {reason}")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {version}; this release reads up to {FORMAT_VERSION}: upgrade omnigen2-rt"
            )
        try:
            manifest: Manifest = parse(cls, _upgraded(data) if version < FORMAT_VERSION else data, where)
            for problem in contradictions(manifest):
                raise ValueError(f"{where}.{problem}")
        except ValueError as error:
            raise BundleError(f"{error}: export the bundle again") from None
        return manifest


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an earlier format as one of this format, without a check: `_parse` follows."""
    graphs = data.get("graphs")
    if not isinstance(graphs, list):
        return data
    upgraded = [
        {**traits, **graph} if isinstance(graph, dict) and (traits := _traits_before_2(graph.get("component"))) else graph
        for graph in graphs
    ]
    return {**data, "format_version": FORMAT_VERSION, "graphs": upgraded}


def _traits_before_2(component: Any) -> dict[str, bool]:
    return TRAITS_BEFORE_2.get(component, {}) if isinstance(component, str) else {}
