"""A bundle on disk: what `bundle.json` says, checked against the files beside it.

Knows the manifest's form and nothing of the tools that wrote it or the engines that will run it. Every number about the model
that the runtime needs stands in the manifest; none stands in the code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from .errors import BundleError
from .mllm.image_processor import VisionParameters as VisionParameters

MANIFEST = "bundle.json"
CALIBRATION = "calibration.txt"
"""The model's own prompts for a look at its activations, one a line; a bundle may do without."""
FORMAT_VERSION = 1
PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """An input or output of a graph: a numpy dtype's name (or "bfloat16") and its sizes, where a name is a dynamic size."""

    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSpec:
    """One graph file: a component in a precision. `inlined` is the same graph without local functions, where it has any.

    weight_bytes: its weights as stored. resident_bytes: its weights in the type it computes in, as a runtime may hold them.
    rounded_bytes: of these, those of rounded weights and their scales, which stay as stored in whatever precision is computed.
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


@dataclass(frozen=True, kw_only=True)
class FileSpec:
    """A file of the bundle that isn't a graph. `header_sha256` covers a safetensors file's header, `sha256` every byte."""

    file: str
    size_bytes: int
    sha256: str
    header_sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class TransformerFacts:
    """The diffusion transformer's numbers. `rope_axes` are head widths by axis; `teacache_coefficients` highest power first."""

    hidden_size: int
    latent_channels: int
    patch_size: int
    rope_axes: tuple[int, ...]
    rope_theta: float
    max_references: int
    teacache_coefficients: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class VAEFacts:
    """`downscale`: pixels to a latent pixel. Latents the transformer sees are (latents - shift) * scaling.

    sample_px: the side of the pictures that the model was made for, and draws unless told otherwise.
    """

    downscale: int
    scaling_factor: float
    shift_factor: float
    sample_px: int = 1024


@dataclass(frozen=True, kw_only=True)
class MLLMFacts:
    """The language model's numbers: what its cache and its rope tables need."""

    hidden_size: int
    layers: int
    kv_heads: int
    head_width: int
    rope_theta: float
    mrope_section: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SchedulerFacts:
    """`dynamic_time_shift`: whether the schedule depends on the latents' size."""

    dynamic_time_shift: bool


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Templates with `{prompt}` where the text goes, rendered from the checkpoint's own chat template."""

    drawing: str


@dataclass(frozen=True, kw_only=True)
class VisionFacts:
    """The MLLM's eyes: its image processor, and what its window and rope tables need. `window_px`: a window's side."""

    processor: VisionParameters
    head_width: int
    window_px: int


@dataclass(frozen=True, kw_only=True)
class ReflectionPrompts:
    """What the model is asked about its own picture; `{prompt}` is the request, `{critique}` what it found wrong.

    A critique that starts with `content`, in any case of letters, says that nothing is.
    judge: asks for a grade, a number, higher being better. Raises BundleError for a text that can't serve.
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
class ChatFacts:
    """How to talk with the MLLM: its templates, its special tokens and its generation_config.json.

    first_turn, next_turn: end where the answer begins and hold `{prompt}` once; next_turn starts after the answer's last
    word. image_tag: stands for an image; holds `{number}` and the image token. draw_token_id: an answer that starts with
    it asks for a picture (None: this model never does). A temperature of 0 is greedy; top_k 0 and top_p 1 cut nothing.
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
    """All of `bundle.json`. Without `chat` it only draws; without `vision` it can't look at pictures."""

    format_version: int
    source: str
    tools: dict[str, str]
    transformer: TransformerFacts
    vae: VAEFacts
    mllm: MLLMFacts
    scheduler: SchedulerFacts
    prompts: Prompts
    tokenizer: str
    graphs: tuple[GraphSpec, ...]
    files: tuple[FileSpec, ...]
    chat: ChatFacts | None = None
    vision: VisionFacts | None = None

    def to_json(self) -> str:
        """The manifest as the text of `bundle.json`."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Manifest:
        """Parse and check. Raises BundleError for anything that isn't a manifest of this version."""
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise BundleError(f"{where} is not JSON ({error}): export the bundle again") from None
        version = data.get("format_version") if isinstance(data, dict) else None
        if not isinstance(version, int):
            raise BundleError(f"{where} has no format_version: it is not a bundle's manifest")
        if version > FORMAT_VERSION:
            raise BundleError(
                f"{where} has format version {version}; this release reads up to {FORMAT_VERSION}: upgrade omnigen2-rt"
            )
        manifest: Manifest = _parse(cls, data, where)
        return manifest


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: its folder and its manifest. Make one with `Bundle.open`."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Read the manifest and check graph hashes, file sizes and safetensors headers (not 15 GB of weights).

        Raises BundleError where anything is missing, changed or newer than this release.
        """
        folder = Path(path)
        manifest = folder / MANIFEST
        if not manifest.is_file():
            raise BundleError(f"{str(path)!r} is not a bundle (no {MANIFEST}){_hint(folder)}")
        try:
            text = manifest.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BundleError(f"{str(manifest)!r} can't be read: {error}") from error
        bundle = cls(folder, Manifest.from_json(text, str(manifest)))
        bundle._check()
        return bundle

    def verify(self, progress: Callable[[str], None] | None = None) -> None:
        """Hash every byte of every file against the manifest. Raises BundleError naming the first that differs."""
        for spec in self.manifest.files:
            if progress:
                progress(spec.file)
            _expect_hash(self.path / spec.file, spec.sha256)

    @cached_property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the bundle holds, in the order fp32, fp16, bf16."""
        present = {graph.precision for graph in self.manifest.graphs}
        return tuple(precision for precision in PRECISIONS if precision in present)

    def graph(self, component: str, precision: str) -> GraphSpec:
        """The graph of a component. Raises BundleError where the bundle has none."""
        for graph in self.manifest.graphs:
            if (graph.component, graph.precision) == (component, precision):
                return graph
        raise BundleError(
            f"the bundle {str(self.path)!r} has no {component} graph in {precision}; it holds {', '.join(self.precisions)}: "
            f"export it with --precision {precision}"
        )

    def _check(self) -> None:
        for graph in self.manifest.graphs:
            _expect_hash(self.path / graph.file, graph.sha256)
            if graph.inlined is not None and graph.inlined_sha256 is not None:
                _expect_hash(self.path / graph.inlined, graph.inlined_sha256)
        for spec in self.manifest.files:
            _check_file(self.path / spec.file, spec)


def _hint(folder: Path) -> str:
    """What a folder that is no bundle may be instead."""
    if (folder / "model_index.json").is_file():
        return ": it is a checkpoint; run `omnigen2 export` on it first"
    if folder.name.endswith(".partial") and folder.is_dir():
        return ": it is an unfinished bundle; run the same `omnigen2 export` or `quantize` again to finish it"
    if folder.is_file():
        return ": it is a file; give the bundle's folder"
    return "" if folder.is_dir() else ": there is no such folder"


def _check_file(path: Path, spec: FileSpec) -> None:
    if not path.is_file():
        raise BundleError(f"{str(path)!r} is missing: the bundle is incomplete; export it again")
    size = path.stat().st_size
    if size != spec.size_bytes:
        raise BundleError(f"{str(path)!r} has {size} bytes where the bundle says {spec.size_bytes}: export it again")
    if spec.header_sha256 is not None and header_hash(path) != spec.header_sha256:
        raise BundleError(f"the header of {str(path)!r} has changed since the export: export it again")


def _expect_hash(path: Path, expected: str) -> None:
    if not path.is_file():
        raise BundleError(f"{str(path)!r} is missing: the bundle is incomplete; export it again")
    if file_hash(path) != expected:
        raise BundleError(f"{str(path)!r} has changed since the export: export it again")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def header_hash(path: Path) -> str:
    """SHA-256 of a safetensors file's header (its 8-byte length and the JSON after it), hexadecimal."""
    with path.open("rb") as file:
        length = file.read(8)
        return hashlib.sha256(length + file.read(int.from_bytes(length, "little"))).hexdigest()


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
