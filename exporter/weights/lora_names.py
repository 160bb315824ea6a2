"""Reads the names of a LoRA file's tensors: which module each changes, and in which role.

Knows the names that diffusers, PEFT, ComfyUI and Kohya's and LyCORIS' trainers write. Knows no shapes and no numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ...runtime.errors import ExportError

SUFFIX = re.compile(
    r"(?P<module>.+?)\.(?:lora[_.](?P<side>A|B|down|up)(?:\.(?P<adapter>[^.]+))?\.weight|(?P<alpha>alpha))"
)
SIDES = {"A": "down", "down": "down", "B": "up", "up": "up"}
WRAPPERS = frozenset({"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of a name that compiling and distributed training add anywhere."""
PREFIXES = ("base_model.", "model.", "transformer.", "diffusion_model.")
"""Beginnings that say whose module it is; several may follow each other."""
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lycoris_")
"""Beginnings of names in which each dot is an underscore."""
TEXT_ENCODER = re.compile(r"(?:lora_te\d*_|text_encoder|mllm\.|lora_mllm|lora_text_)")
KINDS = {
    "hada_": "a LoHa",
    "lokr_": "a LoKr",
    "dora_scale": "a DoRA",
    "lora_magnitude_vector": "a DoRA",
    "oft_": "an OFT adapter",
    "lora_mid": "a LoCon of convolutions",
    "diff": "a full difference",
}
"""Parts of names by which adapters of other kinds are known."""


@dataclass(frozen=True, kw_only=True)
class LoraNames:
    """The tensors' names by module.

    sides: "down" and "up" of each module.
    alphas: of some modules.
    """

    sides: dict[str, dict[str, str]]
    alphas: dict[str, str]


def lora_names(lora: str, tensors: Iterable[str], modules: Iterable[str]) -> LoraNames:
    """Sort a file's tensors. lora: the file, for messages. modules: those of the transformer that have a weight.

    Raises ExportError for a tensor of another kind or of no module, for a text encoder's, for two tensors that mean the same,
    and for several adapters.
    """
    known = _Modules(modules)
    sides: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    adapters: set[str] = set()
    for name in tensors:
        match = SUFFIX.fullmatch(name)
        _check_kind(lora, name, supported=match is not None)
        assert match is not None
        module = known.find(match["module"])
        if module is None:
            changed = _plain(match["module"])
            raise ExportError(f"the LoRA changes {changed!r}, which this transformer has not: is it for another model?")
        places, role = (alphas, module) if match["alpha"] else (sides.setdefault(module, {}), SIDES[match["side"]])
        if role in places:
            raise ExportError(f"LoRA {lora} has two tensors for one place: {places[role]!r} and {name!r}")
        places[role] = name
        if match["side"]:
            adapters.add(match["adapter"] or "unnamed")
        if len(adapters) > 1:
            names = ", ".join(sorted(adapters))
            raise ExportError(f"LoRA {lora} holds several adapters, {names}: save each in a file of its own")
    return LoraNames(sides=sides, alphas=alphas)


def _check_kind(lora: str, name: str, *, supported: bool) -> None:
    if TEXT_ENCODER.match(name):
        raise ExportError(
            f"LoRA {lora} also changes the text encoder ({name!r}), which can't be merged: save the transformer's part alone"
        )
    if not supported:
        kind = next((f", so it is {kind}" for part, kind in KINDS.items() if f".{part}" in name), "")
        raise ExportError(
            f"LoRA {lora} has the tensor {name!r}{kind}; lora_A, lora_B and alpha are supported: merge it with its own tool"
        )


class _Modules:
    """The transformer's modules, found by the names that files give them."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._modules = frozenset(modules)
        self._by_flat_name = _flattened(self._modules)

    def find(self, name: str) -> str | None:
        """The module, or None."""
        flat = next((name.removeprefix(prefix) for prefix in FLAT_PREFIXES if name.startswith(prefix)), None)
        if flat is not None:
            return self._find_flat(flat)
        plain = _plain(name)
        return plain if plain in self._modules else None

    def _find_flat(self, name: str) -> str | None:
        prefixes = tuple(f"{part.rstrip('.')}_" for part in (*PREFIXES, *sorted(WRAPPERS)))
        return self._by_flat_name.get(_without(name, prefixes))


def _plain(name: str) -> str:
    """A module's name without what says whose it is and without wrappers."""
    return _without(".".join(part for part in name.split(".") if part not in WRAPPERS), PREFIXES)


def _without(name: str, prefixes: Sequence[str]) -> str:
    """The name without any of the prefixes, which may follow each other."""
    while prefix := next((prefix for prefix in prefixes if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name


def _flattened(modules: Iterable[str]) -> Mapping[str, str]:
    """The modules by their names with underscores, without those that two modules share."""
    flat: dict[str, str | None] = {}
    for module in modules:
        name = module.replace(".", "_")
        flat[name] = None if name in flat else module
    return {name: module for name, module in flat.items() if module is not None}
