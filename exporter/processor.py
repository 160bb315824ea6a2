"""A checkpoint's tokenizer, prompts, sampling defaults and image processor, read once.

Reads the JSON files of `processor/`, `mllm/generation_config.json` and `reflection.json`; no weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..reference.config_values import object_at
from ..reference.mllm import MLLMConfig
from ..reference.vision import VisionConfig
from ..runtime.errors import BundleError, ExportError
from ..runtime.manifest import ChatParameters, Prompts, ReflectionPrompts, VisionParameters
from .chat_template import PromptTemplates, read_prompt_templates
from .image_processor import read_image_processor
from .json_files import integer_in, number_in, read_optional_json
from .tokenizer import special_tokens, tokenizer_json

IMAGE_TAG = "<img{number}>: <|vision_start|><|image_pad|><|vision_end|>"
DRAW_TOKEN = "<|img|>"
STOP_TOKENS = ("<|im_end|>", DRAW_TOKEN, "<|endoftext|>")
GREEDY_TEMPERATURE = 1e-4
"""A temperature at or below this means greedy sampling (Qwen's own file has 1e-6)."""

REFLECTION = ReflectionPrompts(
    critique=(
        "This picture was drawn for the request: {prompt}\nSay briefly what in it does not fit the request: objects, "
        "counts, colours, shapes, places. If everything fits, answer only: Nothing."
    ),
    edit=(
        "This picture was drawn for the request: {prompt}\nThis is wrong with it: {critique}\n"
        "Write one short instruction for an image editor that corrects it."
    ),
    judge=(
        "This picture was drawn for the request: {prompt}\nHow well does it fit, from 0 (not at all) to 10 (perfectly)? "
        "Answer only with the number."
    ),
    content="Nothing",
)
"""The prompts of a checkpoint that has none of its own."""
REFLECTION_FILE = "reflection.json"
"""The reflection prompts of a checkpoint that was trained to reflect, beside model_index.json; keys as in ReflectionPrompts."""


@dataclass(frozen=True, kw_only=True)
class Processor:
    """Text and image processing of a checkpoint.

    tokenizer: the text of the tokenizer.json to ship.
    prompts, chat, vision: entries of the manifest.
    """

    tokenizer: str
    prompts: Prompts
    chat: ChatParameters
    vision: VisionParameters


def read_processor(checkpoint: Path, config: dict[str, Any], mllm: MLLMConfig, vision: VisionConfig) -> Processor:
    """Read the files. config: mllm/config.json, from which `mllm` and `vision` were parsed. Raises ExportError."""
    templates = read_prompt_templates(checkpoint)
    tokenizer = tokenizer_json(checkpoint)
    return Processor(
        tokenizer=tokenizer,
        prompts=Prompts(drawing=templates.drawing),
        chat=_chat_parameters(checkpoint, templates, special_tokens(tokenizer, mllm.vocab_size), config, mllm.image_token_id),
        vision=_vision_parameters(checkpoint, vision),
    )


def reflection_prompts(checkpoint: Path) -> ReflectionPrompts:
    """The checkpoint's own prompts, and REFLECTION's where it lacks one. Raises ExportError for what can't be a prompt."""
    path = checkpoint / REFLECTION_FILE
    own = read_optional_json(path)
    defaults = asdict(REFLECTION)
    wrong = [name for name, text in own.items() if name not in defaults or not isinstance(text, str)]
    if wrong:
        raise ExportError(f"{path}: {', '.join(wrong)} is unknown or no text; it may hold the texts {', '.join(defaults)}")
    try:
        return ReflectionPrompts(**{**defaults, **own})
    except BundleError as error:
        raise ExportError(f"{path}: {error}") from error


def _chat_parameters(
    checkpoint: Path, templates: PromptTemplates, tokens: dict[str, int], config: dict[str, Any], image_token_id: int
) -> ChatParameters:
    file = checkpoint / "mllm" / "generation_config.json"
    generation = read_optional_json(file)
    temperature = number_in(file, generation, "temperature", 0, 100, default=1.0) or 1.0
    stops = [tokens[name] for name in STOP_TOKENS if name in tokens] + _end_tokens(file, generation)
    mllm = {**config, **object_at(config, "text_config")}
    return ChatParameters(
        first_turn=templates.first_turn,
        next_turn=templates.next_turn,
        image_tag=IMAGE_TAG,
        image_token_id=image_token_id,
        draw_token_id=tokens.get(DRAW_TOKEN),
        stop_token_ids=tuple(dict.fromkeys(stops)),
        max_context_tokens=integer_in(
            checkpoint / "mllm" / "config.json", mllm, "max_position_embeddings", 1, 2**31, default=32768
        ),
        temperature=temperature if generation.get("do_sample") and temperature > GREEDY_TEMPERATURE else 0.0,
        top_p=number_in(file, generation, "top_p", 0, 1, default=1.0) or 1.0,
        top_k=integer_in(file, generation, "top_k", 0, 2**31, default=0),
        repetition_penalty=number_in(file, generation, "repetition_penalty", 0, 100, default=1.0) or 1.0,
        reflection=reflection_prompts(checkpoint),
    )


def _end_tokens(file: Path, generation: dict[str, Any]) -> list[int]:
    stored = generation.get("eos_token_id")
    tokens = stored if isinstance(stored, list) else [] if stored is None else [stored]
    if any(type(token) is not int or not 0 <= token < 2**31 for token in tokens):
        raise ExportError(f"{file} has eos_token_id={stored!r}; an id from 0 up or a list of them is allowed")
    return tokens


def _vision_parameters(checkpoint: Path, vision: VisionConfig) -> VisionParameters:
    return VisionParameters(
        processor=read_image_processor(checkpoint / "processor", vision),
        head_width=vision.head_width,
        window_px=vision.window_size,
    )
