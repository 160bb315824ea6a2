"""A checkpoint in the official layout, opened for export: its configs, its tensors' places, its prompt templates.

Reads headers and JSON only. A name such as `OmniGen2/OmniGen2` is resolved through the Hugging Face cache.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reference.mllm import MLLM, MLLMConfig
from ..reference.rope import Rope, omni_rope
from ..reference.safetensors_header import TensorLocation
from ..reference.transformer import Transformer, TransformerConfig
from ..reference.vae import VAE, VAEConfig
from ..reference.vision import VisionConfig
from ..reference.weights import mllm_parameter_name, read_config, tensor_locations
from ..runtime.errors import ExportError
from ..runtime.manifest import MANIFEST
from .components import Component

STORED_DTYPES = ("F32", "F16", "BF16")
PARTS = ("transformer", "vae", "mllm")
SYSTEM_PROMPT = "You are a helpful assistant that generates high-quality images based on user instructions."
PLACEHOLDER = "{prompt}"
HUB_FILES = ["*.json", "*.txt", "*.safetensors", "*.jinja"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """An opened checkpoint. `locations`: by part, then by the reference network's parameter name."""

    path: Path
    name: str
    transformer: TransformerConfig
    vae: VAEConfig
    vae_overflows_in_fp16: bool
    mllm: MLLMConfig
    vision: VisionConfig
    dynamic_time_shift: bool
    locations: dict[str, dict[str, TensorLocation]]

    @classmethod
    def open(cls, source: str | Path) -> Checkpoint:
        """Open a directory, or a Hugging Face id. Raises ExportError for what is missing, unknown or doesn't fit."""
        path = resolve(source)
        try:
            return cls._open(path, str(source))
        except ValueError as error:
            raise ExportError(str(error)) from error
        except TypeError as error:  # a word where a config has a number
            raise ExportError(f"a config.json of {path} has a value of the wrong type: {error}") from error

    @classmethod
    def _open(cls, path: Path, name: str) -> Checkpoint:
        configs = {part: read_config(path / part) for part in PARTS}
        mllm = MLLMConfig.from_json(configs["mllm"])
        renames: dict[str, Callable[[str], str | None]] = {"mllm": lambda tensor: mllm_parameter_name(tensor, mllm)}
        locations = {}
        for part in PARTS:
            rename = renames.get(part, str)
            found = {rename(tensor): place for tensor, place in tensor_locations(path / part).items()}
            locations[part] = {ours: place for ours, place in found.items() if ours is not None}
        checkpoint = cls(
            path=path,
            name=name,
            transformer=TransformerConfig.from_json(configs["transformer"]),
            vae=VAEConfig.from_json(configs["vae"]),
            vae_overflows_in_fp16=bool(configs["vae"].get("force_upcast", True)),
            mllm=mllm,
            vision=VisionConfig.from_json(configs["mllm"]),
            dynamic_time_shift=_dynamic_time_shift(path),
            locations=locations,
        )
        for part in PARTS:
            checkpoint._check_shapes(part)
            checkpoint._check_dtypes(part)
        return checkpoint

    def config_of(self, component: Component) -> Any:
        """The config that the component's inputs and outputs depend on."""
        return getattr(self, component.config or component.part)

    def build(self, part: str, rope: Rope = omni_rope) -> Any:
        """A new reference network of a part, with whatever weights torch gives it: real or fake."""
        if part == "transformer":
            return Transformer(self.transformer, rope)
        return VAE(self.vae) if part == "vae" else MLLM(self.mllm, self.vision)

    def weight_files(self) -> list[Path]:
        """Every safetensors file of the checkpoint, each once."""
        return sorted({place.path for part in self.locations.values() for place in part.values()})

    def _check_shapes(self, part: str) -> None:
        import torch

        with torch.device("meta"):
            expected = {name: tuple(tensor.shape) for name, tensor in self.build(part).state_dict().items()}
        given = {name: place.shape for name, place in self.locations[part].items()}
        missing, unused = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
        wrong = [f"{n} {given[n]} for {expected[n]}" for n in sorted(given.keys() & expected.keys()) if given[n] != expected[n]]
        for kind, names in {"lacks": missing, "has unknown": unused, "has a wrong shape of": wrong}.items():
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                listed = f"{', '.join(names[:3])}{more}"
                raise ExportError(f"{self.path / part} {kind} {listed}: its config.json doesn't fit its weights")

    def _check_dtypes(self, part: str) -> None:
        for name, place in self.locations[part].items():
            if place.dtype not in STORED_DTYPES:
                raise ExportError(
                    f"tensor {name!r} of {place.path} is stored as {place.dtype}; allowed are {', '.join(STORED_DTYPES)}: "
                    "convert the checkpoint first"
                )


def resolve(source: str | Path) -> Path:
    """The checkpoint's directory: `source` itself, or where the Hugging Face cache holds that id (downloaded if need be).

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
    """What went wrong at the hub, for people: its own messages speak of Python arguments and request numbers."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        return "the Hugging Face cache has no whole copy of it and the hub is out of reach: download it first, or give a folder"
    if isinstance(error, errors.GatedRepoError):
        return "the Hugging Face hub asks to accept its terms first, and to log in (`hf auth login`)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "the Hugging Face hub has no such model, or shows it only after a login (`hf auth login`)"
    lines = str(error).strip().splitlines()
    return f"the Hugging Face hub gives: {lines[0] if lines else type(error).__name__}"


def _dynamic_time_shift(path: Path) -> bool:
    config = path / "scheduler" / "scheduler_config.json"
    data = read_json(config)
    name = data.get("_class_name", "FlowMatchEulerDiscreteScheduler")
    if name not in ("FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"):
        raise ExportError(f"{config} names the scheduler {name!r}; OmniGen2 uses FlowMatchEulerDiscreteScheduler")
    shift = data.get("dynamic_time_shift", True)
    if not isinstance(shift, bool):
        raise ExportError(f"{config} has dynamic_time_shift={shift!r}, not true or false")
    return shift


def drawing_template(path: Path) -> str:
    """The prompt for drawing, rendered from the checkpoint's own chat template, with "{prompt}" where the text goes."""
    return render_turns(path, [PLACEHOLDER], answer_next=False)


def render_turns(path: Path, turns: list[str], answer_next: bool) -> str:
    """A conversation in the checkpoint's chat template: user's and assistant's turns in alternation, after the system's.

    answer_next: end where the assistant's answer begins. PLACEHOLDER must come out exactly once.
    """
    import jinja2
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    roles = ["system", *("user" if k % 2 == 0 else "assistant" for k in range(len(turns)))]
    messages = [{"role": role, "content": text} for role, text in zip(roles, [SYSTEM_PROMPT, *turns], strict=True)]
    try:
        rendered = environment.from_string(_chat_template(path)).render(messages=messages, add_generation_prompt=answer_next)
    except jinja2.TemplateError as error:
        raise ExportError(f"the chat template of {path / 'processor'} can't be rendered: {error}") from error
    if rendered.count(PLACEHOLDER) != 1:
        raise ExportError(f"the chat template of {path / 'processor'} does not hold the prompt once")
    return rendered


def _chat_template(path: Path) -> str:
    folder = path / "processor"
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    raise ExportError(f"{folder} has no chat template (chat_template.jinja, chat_template.json or tokenizer_config.json)")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of the checkpoint. Raises ExportError where the file is missing or something else."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExportError(f"{path} is missing: the checkpoint is incomplete") from None
    except ValueError as error:
        raise ExportError(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{path} is not a JSON object")
    return data
