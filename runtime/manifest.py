"""The manifest of a bundle, `bundle.json`: its form, and how it is read and checked.

Every number about the model that the runtime needs stands in it; none stands in the code. Knows nothing of the files beside it,
of the tools that wrote it or of the engines that will run it.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import BundleError
from .files.json_text import parse_json

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

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """One graph file: a component in a precision.

    weight_bytes: its weights as stored.
    resident_bytes: its weights in the type that it computes in, as a runtime may hold them.
    inlined: the same graph without local functions, where it has any.
    rounded_bytes: the part of resident_bytes that are quantized weights and their scales: stored so in every precision.
    keeps_float32: computed in float32 whatever the precision: it is cheap, and its rounding error reaches every step.
    picture_rows: its products have a row for each token of a picture, hundreds or more.
    repeats_shapes: a drawing runs it many times with the same shapes.
    """

    component: str
    precision: str
    file: str
    sha256: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    weight_bytes: int
    resident_bytes: int
    inlined: str | None = None
    inlined_sha256: str | None = None
    rounded_bytes: int = 0
    keeps_float32: bool = False
    picture_rows: bool = False
    repeats_shapes: bool = False


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file of the bundle that isn't a graph.

    sha256: of every byte.
    header_sha256: of a safetensors file's header.
    """

    file: str
    size_bytes: int
    sha256: str
    header_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class TransformerParameters:
    """The diffusion transformer's numbers.

    rope_axes: the width of a head on each axis.
    teacache_coefficients: of TeaCache's polynomial, highest power first.
    """

    hidden_size: int
    latent_channels: int
    patch_size: int
    rope_axes: tuple[int, ...]
    rope_theta: float
    max_references: int
    teacache_coefficients: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class VAEParameters:
    """The autoencoder's numbers. The transformer's latents are (latents - shift_factor) * scaling_factor.

    downscale: pixels to a latent pixel.
    sample_px: the side of the pictures that the model was trained for: the default size of a drawing.
    """

    downscale: int
    scaling_factor: float
    shift_factor: float
    sample_px: int = 1024


@dataclass(frozen=True, kw_only=True)
class MLLMParameters:
    """The language model's numbers, for its KV cache and its rope tables."""

    hidden_size: int
    layers: int
    kv_heads: int
    head_width: int
    rope_theta: float
    mrope_section: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SchedulerParameters:
    """The scheduler's numbers.

    dynamic_time_shift: whether the schedule depends on the latents' size.
    """

    dynamic_time_shift: bool


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Templates with `{prompt}` where the text goes, rendered from the checkpoint's own chat template."""

    drawing: str


@dataclass(frozen=True, kw_only=True)
class ImageProcessorParameters:
    """The numbers of the image processor, named as in preprocessor_config.json.

    patch_size: the side of a patch in pixels.
    temporal_patch_size: the frames of a patch; a still picture is repeated.
    merge_size: merge_size² patches become one token.
    min_pixels, max_pixels: the area that a picture is resized to.
    resample: PIL's number of the filter.
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    rescale_factor: float
    resample: int


@dataclass(frozen=True, kw_only=True)
class VisionParameters:
    """The vision encoder's numbers.

    processor: the image processor's parameters.
    head_width: of the rope tables.
    window_px: a window's side.
    """

    processor: ImageProcessorParameters
    head_width: int
    window_px: int


@dataclass(frozen=True, kw_only=True)
class ReflectionPrompts:
    """The questions of reflection, with `{prompt}` for the request. Raises BundleError for one without its placeholders.

    critique: asks what is wrong with the picture.
    edit: asks for the instruction that corrects it; `{critique}` is the answer to the first.
    judge: asks for a grade, a number, higher being better.
    content: a critique that starts with this text, in any case of letters, finds nothing wrong.
    """

    critique: str
    edit: str
    judge: str
    content: str

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

    first_turn: str
    next_turn: str
    image_tag: str
    image_token_id: int
    draw_token_id: int | None
    stop_token_ids: tuple[int, ...]
    max_context_tokens: int
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    reflection: ReflectionPrompts


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All of `bundle.json`.

    source: the name of the checkpoint.
    tools: the versions of what wrote it.
    tokenizer: the tokenizer's file.
    chat: None where the bundle can only draw.
    vision: None where it can't read pictures.
    source_weights: SHA-256 of the checkpoint's own weight files by their names in the bundle; empty in bundles of before.
    """

    format_version: int
    source: str
    tools: dict[str, str]
    transformer: TransformerParameters
    vae: VAEParameters
    mllm: MLLMParameters
    scheduler: SchedulerParameters
    prompts: Prompts
    tokenizer: str
    graphs: tuple[GraphSpec, ...]
    files: tuple[FileSpec, ...]
    chat: ChatParameters | None = None
    vision: VisionParameters | None = None
    source_weights: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The manifest as the text of `bundle.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse and check. Raises BundleError for anything that isn't a manifest of this version."""
        try:
            data = parse_json(text)
        except ValueError as error:
            raise BundleError(f"{where} {error}: export the bundle again") from None
        version = data.get("format_version") if isinstance(data, dict) else None
        if version is None:
            raise BundleError(f"{where} has no format_version: it is not a bundle's manifest")
        if type(version) is not int or version < 1:
            raise BundleError(f"{where} has format_version {version!r}, not a whole number of 1 or more: export the bundle again")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {version}; this release reads up to {FORMAT_VERSION}: upgrade omnigen2-rt"
            )
        manifest: Manifest = _parse(cls, _upgraded(data) if version < FORMAT_VERSION else data, where)
        return manifest


def _upgraded(data: dict[str, Any]) -> dict[str, Any]:
    """A manifest of an earlier format as one of this format, without a check: `_parse` follows."""
    graphs = data.get("graphs")
    if not isinstance(graphs, list):
        return data
    upgraded = [
        {**TRAITS_BEFORE_2.get(str(graph.get("component")), {}), **graph} if isinstance(graph, dict) else graph
        for graph in graphs
    ]
    return {**data, "format_version": FORMAT_VERSION, "graphs": upgraded}


def _parse(kind: Any, data: Any, where: str) -> Any:
    """`data` as `kind` (a dataclass, tuple, dict, union or plain type), or BundleError with the place that is wrong."""
    origin = get_origin(kind)
    if is_dataclass(kind):
        return _parse_dataclass(kind, data, where)
    if origin is tuple and isinstance(data, list):
        return tuple(_parse(get_args(kind)[0], item, f"{where}[{k}]") for k, item in enumerate(data))
    if origin is dict and isinstance(data, dict):
        return {str(key): _parse(get_args(kind)[1], value, f"{where}.{key}") for key, value in data.items()}
    if origin in (Union, UnionType):
        allowed: tuple[type, ...] = get_args(kind)
        nested = [option for option in allowed if is_dataclass(option)]
        if nested and data is not None:
            return _parse_dataclass(nested[0], data, where)
        if isinstance(data, allowed):
            return data
    elif kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return float(data)
    elif isinstance(kind, type) and type(data) is kind:
        return data
    raise BundleError(f"{where} is {data!r}, not {getattr(kind, '__name__', kind)}: export the bundle again")


def _parse_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise BundleError(f"{where} is {data!r}, not an object: export the bundle again")
    known = {item.name: item for item in fields(kind)}
    required = {name for name, item in known.items() if item.default is MISSING and item.default_factory is MISSING}
    missing, unknown = sorted(required - data.keys()), sorted(data.keys() - known.keys())
    if missing or unknown:
        raise BundleError(f"{where}: missing {missing}, unknown {unknown}: export the bundle again with this release")
    hints = get_type_hints(kind)
    return kind(**{name: _parse(hints[name], value, f"{where}.{name}") for name, value in data.items()})
