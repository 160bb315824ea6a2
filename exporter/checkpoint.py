"""A checkpoint in the official layout, read once for export: configs, places of tensors, manifest and tokenizer.

Reads headers and JSON only. A name such as `OmniGen2/OmniGen2` is resolved through the Hugging Face cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..reference.mllm import MLLM, MLLMConfig
from ..reference.rope import Rope, omni_rope
from ..reference.transformer import Transformer, TransformerConfig
from ..reference.vae import VAE, VAEConfig
from ..reference.vision import VisionConfig
from ..reference.weights import check_tied_head, mllm_parameter_name, read_config, tensor_locations
from ..runtime.errors import BundleError, ExportError
from ..runtime.files.safetensors_header import TensorLocation
from ..runtime.manifest import MANIFEST, Manifest, SchedulerParameters
from .components import Component
from .configs import Configs, parse_configs
from .json_files import read_json
from .manifest import make_manifest
from .processor import read_processor
from .weights.tensor_file import WEIGHT_DTYPES, Locations

Network = Callable[..., torch.nn.Module]
PARTS = ("transformer", "vae", "mllm")
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.jinja"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint.

    path: its folder.
    vae_overflows_in_fp16: the VAE's activations leave fp16's range.
    locations: where the tensors lie.
    manifest: its part of `bundle.json`; graphs, files and tools are empty.
    tokenizer: the text of the tokenizer.json to ship.
    """

    path: Path
    transformer: TransformerConfig
    vae: VAEConfig
    vae_overflows_in_fp16: bool
    mllm: MLLMConfig
    vision: VisionConfig
    locations: Locations
    manifest: Manifest
    tokenizer: str

    @classmethod
    def open(cls, source: str | Path) -> Checkpoint:
        """Open a directory, or a Hugging Face id. Raises ExportError for what is missing, unknown or doesn't fit."""
        path = resolve(source)
        try:
            return cls._read(path, Path(source).name)
        except ValueError as error:
            raise ExportError(str(error)) from error

    @classmethod
    def _read(cls, path: Path, name: str) -> Checkpoint:
        stored = {part: read_config(path / part) for part in PARTS}
        configs = parse_configs(path, stored)
        transformer, vae, mllm, vision = configs.transformer, configs.vae, configs.mllm, configs.vision
        locations = {part: tensor_locations(path / part) for part in ("transformer", "vae")}
        locations["mllm"] = mllm_locations(path / "mllm", mllm)
        scheduler = _scheduler_parameters(path)
        networks: dict[str, tuple[Network, tuple[Any, ...]]] = {
            "transformer": (Transformer, (transformer,)),
            "vae": (VAE, (vae,)),
            "mllm": (MLLM, (mllm, vision)),
        }
        for part, (network, arguments) in networks.items():
            _check_depth(path / part, configs, locations[part])
            _check_shapes(path / part, _expected_shapes(network, *arguments), locations[part])
            _check_dtypes(locations[part])
        try:
            processor = read_processor(path, stored["mllm"], mllm, vision)
            manifest = make_manifest(name, transformer, vae, mllm, scheduler, processor)
        except (BundleError, ValueError) as error:
            raise ExportError(f"a JSON file of {path} has a value that is not allowed: {error}") from error
        return cls(
            path=path,
            transformer=transformer,
            vae=vae,
            vae_overflows_in_fp16=configs.vae_overflows_in_fp16,
            mllm=mllm,
            vision=vision,
            locations=locations,
            manifest=manifest,
            tokenizer=processor.tokenizer,
        )

    def config_of(self, component: Component) -> Any:
        """The config that the component's inputs and outputs depend on."""
        return getattr(self, component.config or component.part)

    def build(self, part: str, rope: Rope = omni_rope) -> Any:
        """A new reference network of a part, with uninitialized or fake weights, as torch's modes have it."""
        if part == "transformer":
            return Transformer(self.transformer, rope)
        return VAE(self.vae) if part == "vae" else MLLM(self.mllm, self.vision)

    def weight_files(self) -> list[Path]:
        """Every safetensors file of the checkpoint, each once."""
        return sorted({place.path for part in self.locations.values() for place in part.values()})


def mllm_locations(folder: Path, config: MLLMConfig) -> dict[str, TensorLocation]:
    """The places of the MLLM's tensors by our parameter names.

    Raises ValueError for files that are missing or damaged, and for an output head that isn't the embedding that it is tied to.
    """
    places = tensor_locations(folder)
    check_tied_head(folder, config, places)
    return {ours: place for name, place in places.items() if (ours := mllm_parameter_name(name, config)) is not None}


def _check_depth(folder: Path, configs: Configs, locations: Mapping[str, TensorLocation]) -> None:
    """Refuse a config with more layers than its file has tensors before so many are built."""
    layers = configs.layers(folder.name)
    if layers > len(locations):
        raise ExportError(f"{folder} has {len(locations)} tensors, too few for the {layers} layers of its config.json")


@lru_cache(maxsize=16)
def _expected_shapes(network: Network, *configs: Any) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in network(*configs).state_dict().items()}


def _check_shapes(
    folder: Path, expected: Mapping[str, tuple[int, ...]], locations: Mapping[str, TensorLocation]
) -> None:
    stored = {name: place.shape for name, place in locations.items()}
    shared = sorted(stored.keys() & expected.keys())
    problems = {
        "lacks": sorted(expected.keys() - stored.keys()),
        "has unknown": sorted(stored.keys() - expected.keys()),
        "has a wrong shape of": [f"{n} {stored[n]} for {expected[n]}" for n in shared if stored[n] != expected[n]],
    }
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ExportError(f"{folder} {kind} {', '.join(names[:3])}{more}: its config.json doesn't fit its weights")


def _check_dtypes(locations: Mapping[str, TensorLocation]) -> None:
    for name, place in locations.items():
        if place.dtype not in WEIGHT_DTYPES:
            raise ExportError(
                f"tensor {name!r} of {place.path} is stored as {place.dtype}; allowed are {', '.join(WEIGHT_DTYPES)}: "
                "convert the checkpoint first"
            )


def _scheduler_parameters(path: Path) -> SchedulerParameters:
    file = path / "scheduler" / "scheduler_config.json"
    config = read_json(file)
    name = config.get("_class_name", "FlowMatchEulerDiscreteScheduler")
    if name not in ("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        raise ExportError(f"{file} names the scheduler {name!r}; OmniGen2 uses FlowMatchEulerDiscreteScheduler")
    shift = config.get("dynamic_time_shift", True)
    if not isinstance(shift, bool):
        raise ExportError(f"{file} has dynamic_time_shift={shift!r}, not true or false")
    return SchedulerParameters(dynamic_time_shift=shift)


def resolve(source: str | Path) -> Path:
    """The checkpoint's directory: `source` itself, or the Hugging Face cache's copy of that id, downloaded where it has none.

    Raises ExportError where there is neither, or where the directory isn't in the official layout.
    """
    path = Path(source)
    if not path.exists() and str(source).count("/") == 1 and not str(source).startswith((".", "~", "/")):
        path = _from_hub(str(source))
    if not path.is_dir():
        raise ExportError(f"checkpoint {str(source)!r} is neither a directory nor a Hugging Face id such as OmniGen2/OmniGen2")
    missing = [part for part in (*PARTS, "processor", "scheduler") if not (path / part).is_dir()]
    if missing and (path / MANIFEST).is_file():
        raise ExportError(f"{str(source)!r} is a bundle that `omnigen2 export` made: give the checkpoint that it was made from")
    if missing:
        raise ExportError(f"{str(source)!r} is not an OmniGen2 checkpoint: it lacks {', '.join(f'{part}/' for part in missing)}")
    return path


def _from_hub(repository: str) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(repository, allow_patterns=HUB_FILES))
    except Exception as error:  # the hub's client raises types of many parents
        raise ExportError(f"{repository!r} is no directory here, and {_hub_reason(error)}") from error


def _hub_reason(error: Exception) -> str:
    """The error in our own words: the hub's messages speak of Python arguments and request numbers."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the Hugging Face cache has no whole copy of it and the hub is out of reach: download it first, or give a folder"
    if isinstance(error, errors.GatedRepoError):
        return "the Hugging Face hub asks to accept its terms first, and to log in (`hf auth login`)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hugging Face hub has no such model, or shows it only after a login (`hf auth login`)"
    lines = str(error).strip().splitlines()
    return f"the Hugging Face hub gives: {lines[0] if lines else type(error).__name__}"
