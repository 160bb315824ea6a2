"""A checkpoint's chat template, rendered once into the prompt templates that the runtime fills in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..runtime.errors import ExportError
from .json_files import read_json

SYSTEM_PROMPT = "You are a helpful assistant that generates high-quality images based on user instructions."
PLACEHOLDER = "{prompt}"
ANSWER = "{answer}"
CONTINUED = ["{question}", ANSWER, PLACEHOLDER]


@dataclass(frozen=True, kw_only=True)
class PromptTemplates:
    """Texts that hold PLACEHOLDER once.

    drawing: a prompt for drawing.
    first_turn: a conversation's first question, up to where the answer begins.
    next_turn: the end of an answer and the next question, up to where its answer begins.
    """

    drawing: str
    first_turn: str
    next_turn: str


def read_prompt_templates(checkpoint: Path) -> PromptTemplates:
    """Read and render the chat template in `processor/`. Raises ExportError where there is none or it can't be used."""
    folder = checkpoint / "processor"
    drawing, first_turn, continued = _render(folder, ([PLACEHOLDER], False), ([PLACEHOLDER], True), (CONTINUED, True))
    if any(text.count(PLACEHOLDER) != 1 for text in (drawing, first_turn, continued)):
        raise ExportError(f"the chat template of {folder} does not hold the prompt once")
    if continued.count(ANSWER) != 1:
        raise ExportError(f"the chat template of {folder} does not hold an answer once")
    return PromptTemplates(drawing=drawing, first_turn=first_turn, next_turn=continued.partition(ANSWER)[2])


def _render(folder: Path, *conversations: tuple[Sequence[str], bool]) -> list[str]:
    """Render conversations: the turns of user and assistant after the system prompt, and whether an answer comes next."""
    import jinja2
    import jinja2.sandbox

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    try:
        template = environment.from_string(_read_template(folder))
        return [
            template.render(messages=_messages(turns), add_generation_prompt=answer_next)
            for turns, answer_next in conversations
        ]
    except jinja2.TemplateError as error:
        raise ExportError(f"the chat template of {folder} can't be rendered: {error}") from error


def _messages(turns: Sequence[str]) -> list[dict[str, str]]:
    roles = ["system", *("user" if k % 2 == 0 else "assistant" for k in range(len(turns)))]
    return [{"role": role, "content": text} for role, text in zip(roles, [SYSTEM_PROMPT, *turns], strict=True)]


def _read_template(folder: Path) -> str:
    jinja = folder / "chat_template.jinja"
    if jinja.is_file():
        return jinja.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            template = read_json(folder / name).get("chat_template")
            if isinstance(template, str):
                return template
    raise ExportError(f"{folder} has no chat template (chat_template.jinja, chat_template.json or tokenizer_config.json)")
