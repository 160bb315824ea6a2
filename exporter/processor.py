"""What a checkpoint says of talking and looking: templates, special tokens, sampling defaults and the image processor.

Reads the JSON files of `processor/` and `mllm/`, the checkpoint's `reflection.json` and the tokenizer; no weights.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..runtime.errors import BundleError, ExportError
from ..runtime.manifest import ChatParameters, ImageProcessorParameters, ReflectionPrompts, VisionParameters
from .checkpoint import PLACEHOLDER, Checkpoint, read_json, render_turns
from .tokenizer import tokenizer_json

IMAGE_TAG = "<img{number}>: <|vision_start|><|image_pad|><|vision_end|>"
DRAW_TOKEN = "<|img|>"
STOP_TOKENS = ("<|im_end|>", DRAW_TOKEN, "<|endoftext|>")
GREEDY_TEMPERATURE = 1e-4
"""At or below this a temperature only says "greedy" (Qwen's own file has 1e-6)."""

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
"""For checkpoints that bring none of their own."""
REFLECTION_FILE = "reflection.json"
"""Beside model_index.json: what a checkpoint that was trained to reflect is to be asked, under the names of ReflectionPrompts."""


def chat_facts(checkpoint: Checkpoint) -> ChatParameters:
    """The manifest's `chat`. Raises ExportError where the checkpoint's files don't tell."""
    tokens = _special_tokens(checkpoint)
    generation = _optional_json(checkpoint, "generation_config.json")
    temperature = float(generation.get("temperature") or 1.0) if generation.get("do_sample") else 0.0
    eos = generation.get("eos_token_id", [])
    stops = [tokens[name] for name in STOP_TOKENS if name in tokens] + (eos if isinstance(eos, list) else [eos])
    config = read_json(checkpoint.path / "mllm" / "config.json")
    context = {**config, **config.get("text_config", {})}.get("max_position_embeddings", 32768)
    return ChatParameters(
        first_turn=render_turns(checkpoint.path, [PLACEHOLDER], answer_next=True),
        next_turn=_next_turn(checkpoint),
        image_tag=IMAGE_TAG,
        image_token_id=checkpoint.mllm.image_token_id,
        draw_token_id=tokens.get(DRAW_TOKEN),
        stop_token_ids=tuple(dict.fromkeys(stops)),
        max_context_tokens=int(context),
        temperature=0.0 if temperature <= GREEDY_TEMPERATURE else temperature,
        top_p=float(generation.get("top_p") or 1.0),
        top_k=int(generation.get("top_k") or 0),
        repetition_penalty=float(generation.get("repetition_penalty") or 1.0),
        reflection=reflection_prompts(checkpoint),
    )


def reflection_prompts(checkpoint: Checkpoint) -> ReflectionPrompts:
    """The checkpoint's own prompts, and ours for those that it lacks. Raises ExportError for what can't be a prompt."""
    path = checkpoint.path / REFLECTION_FILE
    if not path.is_file():
        return REFLECTION
    own = read_json(path)
    known = asdict(REFLECTION)
    wrong = [name for name, text in own.items() if name not in known or not isinstance(text, str)]
    if wrong:
        raise ExportError(f"{path}: {', '.join(wrong)} is unknown or no text; it may hold the texts {', '.join(known)}")
    try:
        return ReflectionPrompts(**{**known, **own})
    except BundleError as error:
        raise ExportError(f"{path}: {error}") from error


def vision_facts(checkpoint: Checkpoint) -> VisionParameters:
    """The manifest's `vision`. Raises ExportError where preprocessor_config.json lacks a number."""
    stored = read_json(checkpoint.path / "processor" / "preprocessor_config.json")
    size = stored.get("size") or {}
    stored.setdefault("min_pixels", size.get("shortest_edge"))
    stored.setdefault("max_pixels", size.get("longest_edge"))
    numbers: dict[str, Any] = {name: stored.get(name) for name in ImageProcessorParameters.__dataclass_fields__}
    if missing := [name for name, value in numbers.items() if value is None]:
        raise ExportError(f"processor/preprocessor_config.json lacks {', '.join(missing)}")
    lists = {name: tuple(value) for name, value in numbers.items() if isinstance(value, list)}
    return VisionParameters(
        processor=ImageProcessorParameters(**{**numbers, **lists}),
        head_width=checkpoint.vision.head_width,
        window_px=checkpoint.vision.window_size,
    )


def _next_turn(checkpoint: Checkpoint) -> str:
    """What follows an answer: how the template ends it, and the next question."""
    answer = "{answer}"
    rendered = render_turns(checkpoint.path, ["{question}", answer, PLACEHOLDER], answer_next=True)
    if rendered.count(answer) != 1:
        raise ExportError(f"the chat template of {checkpoint.path / 'processor'} does not hold an answer once")
    return rendered.partition(answer)[2]


def _special_tokens(checkpoint: Checkpoint) -> dict[str, int]:
    import tokenizers

    added = tokenizers.Tokenizer.from_str(tokenizer_json(checkpoint.path)).get_added_tokens_decoder()
    return {token.content: number for number, token in added.items()}


def _optional_json(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    path = checkpoint.path / "mllm" / name
    return read_json(path) if path.is_file() else {}
