"""The strength of a LoRA: the factor alpha / rank of each module, from wherever its file says it.

A factor is alpha / r, or alpha / √r for a rank-stabilised LoRA (PEFT's use_rslora). Statements are found in
- alpha tensors (Kohya, diffusers' older files),
- `adapter_config.json` beside the file (PEFT's tuners/lora/config.py),
- the file's metadata: diffusers' `lora_adapter_metadata`, a JSON object as in adapter_config.json, or plain alphas.
Without a statement alpha is r, as diffusers has it. Statements that contradict each other are refused: no one of them is ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...reference.config_values import is_number
from ...runtime.errors import ExportError
from ...runtime.files.json_text import parse_object

DIFFUSERS_KEY = "lora_adapter_metadata"
OBJECT_KEYS = (DIFFUSERS_KEY, "adapter_config", "lora_config", "peft_config")
"""Keys of the metadata under which a JSON object says what adapter_config.json does."""
TRAINER_KEY = "ss_network_args"
"""Kohya's key of the JSON object that LyCORIS reads its settings from."""
ALPHAS = ("network_alpha", "lora_alpha", "alpha", "networkalpha", "loraalpha")
RANKS = ("network_dim", "network_rank", "lora_rank", "lora_r", "lora_dim", "rank", "r", "dim", "networkdim", "lorarank")
STABILISED = ("use_rslora", "rslora", "rs_lora", "use_rs_lora")
DORA = ("use_dora", "dora", "dora_wd", "weight_decompose")
NO_VALUE = ("", "none", "null", "dynamic")
UNSUPPORTED = (
    "use_dora", "lora_bias", "modules_to_save", "fan_in_fan_out", "layer_replication", "use_qalora", "target_parameters",
    "trainable_token_indices", "alora_invocation_tokens", "use_bdlora", "arrow_config",
)  # fmt: skip
"""Settings of PEFT that make something other than W + factor · B A."""
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initialisations (init_lora_weights) that leave the model's own weights as they are."""
TRAINING = "ss_"
"""The beginning of the keys in which Kohya's trainers describe a training."""
MENTION = re.compile(r"alpha|rs_?lora", re.IGNORECASE)
OBJECT_MENTION = re.compile(r"\{.*(lora|network)_?alpha|\{.*rs_?lora", re.IGNORECASE | re.DOTALL)
TOLERANCE = 0.01  # alphas may be stored in bfloat16


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement of one source about the strength.

    source: for messages.
    alpha, rank: of all modules but those in the patterns; None where it doesn't say.
    alphas, ranks: by a module's name or its end, as PEFT matches them.
    is_of_training: what Kohya's trainers note of a training (ss_…), beside the alpha tensors that count.
    """

    source: str
    alpha: float | None = None
    rank: int | None = None
    stabilised: bool = False
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    is_of_training: bool = False

    @property
    def says_alpha(self) -> bool:
        """Whether it says the alpha of any module."""
        return self.alpha is not None or bool(self.alphas)

    def factor(self, module: str, rank: int) -> float | None:
        """The factor of a module whose matrices have this rank; None where it says nothing of it."""
        alpha = _by_pattern(self.alphas, module, self.alpha)
        return None if alpha is None else alpha / (math.sqrt(rank) if self.stabilised else rank)

    def check_patterns(self, lora: str, modules: Iterable[str]) -> None:
        """Raises ExportError for a pattern that is no module's: it would change nothing."""
        for pattern in (*self.alphas, *self.ranks):
            if not any(_is_named(module, pattern) for module in modules):
                raise ExportError(f"LoRA {lora}: {self.source} sets alpha or rank of {pattern!r}, which the file doesn't change")

    def check_rank(self, lora: str, module: str, rank: int) -> None:
        """Raises ExportError where the source gives the module another rank than its matrices have."""
        said = _by_pattern(self.ranks, module, self.rank)
        if said is not None and said != rank:
            raise ExportError(
                f"LoRA {lora} contradicts itself: its matrices of {module!r} have rank {rank}, {self.source} says {said}"
            )


def module_factors(
    lora: str,
    ranks: Mapping[str, int],
    tensors: Mapping[str, float],
    statements: Sequence[Statement],
    has_kohyas_names: bool = True,
) -> dict[str, float]:
    """The factor of each module. ranks: by module. tensors: the alphas that are stored as tensors, by module.

    has_kohyas_names: under other names a converter wrote the file, and multiplied the matrices by the factor of the training.
    Raises ExportError where two sources contradict each other, or one can't be followed.
    """
    for statement in statements:
        statement.check_patterns(lora, ranks)
    factors = {}
    for module, rank in ranks.items():
        said = {"its alpha tensor": tensors[module] / rank} if module in tensors else {}
        for statement in statements:
            if module in tensors and statement.is_of_training:
                continue
            if module not in tensors:
                statement.check_rank(lora, module, rank)
            if (factor := statement.factor(module, rank)) is None:
                continue
            if statement.is_of_training and not has_kohyas_names and not math.isclose(factor, 1):
                raise ExportError(
                    f"LoRA {lora}: {statement.source} gives the factor {factor:g}, which a converter may have put into the "
                    "matrices: remove it from the metadata if it did; otherwise name it lora_alpha"
                )
            said[statement.source] = factor
        if not said and any(statement.stabilised for statement in statements):
            raise ExportError(f"LoRA {lora} is rank-stabilised (rslora), and nothing says its alpha: its strength is unknown")
        factors[module] = _agreed(lora, module, said)
    return factors


def _agreed(lora: str, module: str, said: Mapping[str, float]) -> float:
    if not said:
        return 1.0
    (first, factor), *others = said.items()
    for source, other in others:
        if not math.isclose(factor, other, rel_tol=TOLERANCE):
            raise ExportError(
                f"LoRA {lora} contradicts itself: the factor of {module!r} is {factor:g} by {first}, {other:g} by {source}"
            )
    return factor


def peft_statement(lora: str, source: str, settings: Mapping[str, Any]) -> Statement:
    """The statement of PEFT's settings, as in adapter_config.json. Raises ExportError for an adapter that isn't a plain LoRA."""
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        raise ExportError(f"LoRA {lora} is of PEFT's type {kind!r} by {source}; only LORA can be merged")
    for name in UNSUPPORTED:
        if settings.get(name):
            what = "is a DoRA" if name == "use_dora" else "isn't a plain LoRA"
            raise ExportError(f"LoRA {lora} {what}: {source} has {name}={settings[name]!r}; merge it with its own tool first")
    if settings.get("bias", "none") not in ("none", None):
        raise ExportError(f"LoRA {lora} changes biases: {source} has bias={settings['bias']!r}; only 'none' can be merged")
    start = settings.get("init_lora_weights")
    if start not in PLAIN_STARTS:
        raise ExportError(
            f"LoRA {lora} belongs to changed weights: {source} has init_lora_weights={start!r}; convert it to a plain LoRA"
        )
    stabilised = settings.get("use_rslora") or False
    if not isinstance(stabilised, bool):
        raise ExportError(f"LoRA {lora}: {source} has use_rslora={stabilised!r}; true or false is allowed")
    if settings.get("lora_alpha") is None:
        raise ExportError(f"LoRA {lora}: {source} has no lora_alpha, without which its strength is unknown")
    return Statement(
        source=source,
        alpha=_alpha(lora, source, settings["lora_alpha"]),
        rank=None if settings.get("r") is None else _rank(lora, source, settings["r"]),
        stabilised=stabilised,
        alphas={name: _alpha(lora, source, value) for name, value in _patterns(lora, source, settings, "alpha_pattern")},
        ranks={name: _rank(lora, source, value) for name, value in _patterns(lora, source, settings, "rank_pattern")},
    )


def metadata_statements(lora: str, metadata: Mapping[str, str]) -> list[Statement]:
    """The statements of a safetensors file's metadata. Raises ExportError for what can't be read or merged."""
    statements = [_plain_statement(lora, metadata)]
    for key in OBJECT_KEYS:
        if key in metadata:
            settings = _settings(lora, key, _object(lora, key, metadata[key]))
            if settings:
                statements.append(peft_statement(lora, f"the metadata {key}", settings))
    return statements


def _settings(lora: str, key_of: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The transformer's settings: those under `transformer.`, or without any prefix."""
    own = {key.removeprefix("transformer."): value for key, value in stored.items() if key.startswith("transformer.")}
    own = own or {key: value for key, value in stored.items() if "." not in key}
    if stored and not own:
        others = ", ".join(list(stored)[:3])
        raise ExportError(f"LoRA {lora} has settings in its metadata ({key_of}) for {others}, none for the transformer")
    return own


def _plain_statement(lora: str, metadata: Mapping[str, str]) -> Statement:
    """The statement of the keys that are plain texts, such as ss_network_alpha. Two that disagree are refused."""
    arguments = _object(lora, TRAINER_KEY, metadata[TRAINER_KEY]) if _has_value(metadata.get(TRAINER_KEY, "")) else {}
    texts = [(key, _plain_key(key), text) for key, text in {**arguments, **metadata}.items() if _has_value(text)]
    texts = [entry for entry in texts if not (entry[0].startswith(TRAINING) and _number(entry[2]) == 0)]  # Kohya's 0: as the rank
    if dora := [key for key, name, text in texts if name in DORA and _is_true(text)]:
        raise ExportError(f"LoRA {lora} is a DoRA: its metadata has {dora[0]}; merge it with its own tool first")
    alphas = {key: _alpha(lora, key, text) for key, name, text in texts if name in ALPHAS}
    ranks = {key: _rank(lora, key, text) for key, name, text in texts if name in RANKS}
    for stated in (alphas, ranks):
        if len(set(stated.values())) > 1:
            raise ExportError(f"LoRA {lora} contradicts itself: {', '.join(f'{key}={value:g}' for key, value in stated.items())}")
    return Statement(
        source=f"the metadata {' and '.join((*alphas, *ranks))}",
        alpha=next(iter(alphas.values()), None),
        rank=next(iter(ranks.values()), None),
        stabilised=any(name in STABILISED and _is_true(text) for _, name, text in texts),
        is_of_training=bool(alphas) and all(key.startswith(TRAINING) for key in alphas),
    )


def unread_mentions(metadata: Mapping[str, str]) -> list[str]:
    """Keys of the metadata that mention an alpha or rank stabilisation in a form that `metadata_statements` doesn't know."""
    known = {key for key in metadata if _plain_key(key) in ALPHAS + STABILISED} | {*OBJECT_KEYS, TRAINER_KEY}
    return [
        key
        for key, text in metadata.items()
        if key not in known and _has_value(text) and (MENTION.search(key) or OBJECT_MENTION.search(text))
    ]


def _plain_key(key: str) -> str:
    """`ss_network_alpha` and `transformer.lora-alpha` as `network_alpha` and `lora_alpha`."""
    return re.sub(r"[^a-z0-9]+", "_", key.lower().removeprefix("transformer.")).removeprefix("ss_")


def _has_value(text: object) -> bool:
    return str(text).strip().lower() not in NO_VALUE


def _is_true(text: object) -> bool:
    return str(text).strip().lower() in ("true", "1", "yes", "on", "y", "t")


def _object(lora: str, key: str, text: str) -> dict[str, Any]:
    try:
        return parse_object(text)
    except ValueError as error:
        raise ExportError(f"LoRA {lora} has metadata that {error} ({key})") from error


def _number(value: object) -> float | None:
    if is_number(value):
        return float(value)
    try:
        number = float(value) if isinstance(value, str) and len(value) < 40 else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _alpha(lora: str, source: str, value: object) -> float:
    number = _number(value)
    if not number:
        raise ExportError(f"LoRA {lora} has the alpha {value!r} in its metadata ({source}), which is not a number other than 0")
    return number


def _rank(lora: str, source: str, value: object) -> int:
    number = _number(value)
    if number is None or number != int(number) or not 1 <= number < 2**31:
        raise ExportError(f"LoRA {lora} has the rank {value!r} in its metadata ({source}), which is no integer from 1 up")
    return int(number)


def _patterns(lora: str, source: str, settings: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    """The entries of a pattern by module name. PEFT reads regular expressions; here only names are allowed: tools write those."""
    patterns = settings.get(key) or {}
    if not isinstance(patterns, dict):
        raise ExportError(f"LoRA {lora}: {source} has {key}={patterns!r}; an object is allowed")
    for name in patterns:
        if not re.fullmatch(r"\^?[\w.\\]+\$?", name):
            raise ExportError(f"LoRA {lora}: {source} has the {key} {name!r}; names of modules are allowed, not expressions")
    return list(patterns.items())


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that is the module's name, or its end after a dot (PEFT's get_pattern_key)."""
    return next((value for pattern, value in patterns.items() if _is_named(module, pattern)), default)


def _is_named(module: str, pattern: str) -> bool:
    name = pattern.replace("\\.", ".").removesuffix("$")
    return module == name.removeprefix("^") or module.endswith(f".{name}")
