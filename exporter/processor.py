"""A checkpoint's tokenizer, prompts, sampling defaults and image processor, read once.

Reads the JSON files of `processor/`, `mllm/generation_config.json` and `reflection.json`; no weights.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..reference.mllm import MLLMConfig
from ..reference.vision import VisionConfig
from ..runtime.errors import BundleError, ExportError
from ..runtime.manifest import ChatParameters, ImageProcessorParameters, Prompts, ReflectionPrompts, VisionParameters
from .chat_template import PromptTemplates, read_prompt_templates
from .json_files import read_json, read_optional_json
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
        chat=_chat_parameters(checkpoint, templates, special_tokens(tokenizer), config, mllm.image_token_id),
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
    generation = read_optional_json(checkpoint / "mllm" / "generation_config.json")
    temperature = float(generation.get("temperature") or 1.0) if generation.get("do_sample") else 0.0
    eos = generation.get("eos_token_id", [])
    stops = [tokens[name] for name in STOP_TOKENS if name in tokens] + (eos if isinstance(eos, list) else [eos])
    context = {**config, **config.get("text_config", {})}.get("max_position_embeddings", 32768)
    return ChatParameters(
        first_turn=templates.first_turn,
        next_turn=templates.next_turn,
        image_tag=IMAGE_TAG,
        image_token_id=image_token_id,
        draw_token_id=tokens.get(DRAW_TOKEN),
        stop_token_ids=tuple(dict.fromkeys(stops)),
        max_context_tokens=int(context),
        temperature=0.0 if temperature <= GREEDY_TEMPERATURE else temperature,
        top_p=float(generation.get("top_p") or 1.0),
        top_k=int(generation.get("top_k") or 0),
        repetition_penalty=float(generation.get("repetition_penalty") or 1.0),
        reflection=reflection_prompts(checkpoint),
    )


def _vision_parameters(checkpoint: Path, vision: VisionConfig) -> VisionParameters:
    stored = read_json(checkpoint / "processor" / "preprocessor_config.json")
    size = stored.get("size") or {}
    stored.setdefault("min_pixels", size.get("shortest_edge"))
    stored.setdefault("max_pixels", size.get("longest_edge"))
    numbers: dict[str, Any] = {name: stored.get(name) for name in ImageProcessorParameters.__dataclass_fields__}
    if missing := [name for name, value in numbers.items() if value is None]:
        raise ExportError(f"processor/preprocessor_config.json lacks {', '.join(missing)}")
    lists = {name: tuple(value) for name, value in numbers.items() if isinstance(value, list)}
    return VisionParameters(
        processor=ImageProcessorParameters(**{**numbers, **lists}),
        head_width=vision.head_width,
        window_px=vision.window_size,
    )
