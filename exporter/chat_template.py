"""A checkpoint's chat template, rendered once into the prompt templates that the runtime fills in.

The runtime puts a prompt's text where PLACEHOLDER stands, as it is. A chat template may do more, such as trim the text; then no
prompt template can stand for it, and it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError
from .bounded import run_bounded
from .json_files import read_optional_json, read_text
from .tokenizer import template_variables, tokenizer_folder

SYSTEM_PROMPT = "You are a helpful assistant that generates high-quality images based on user instructions."
PLACEHOLDER = "{prompt}"
ANSWER = "{answer}"
QUESTION = "{question}"
PROBES = (
    "", "  a cat \n", "\n\nA Red CAT\n\n", "{{ 1 + 1 }} {% raw %} {# x #}", "'\"<b>&amp;\\n\\", "<think>a</think>b</s>",
    "ÄÖ 猫  é\te\u0301", "a long text of many words. " * 200, "system", "x\ny\n\n\n-  z", "https://a.b/c?d=e&f", "12,345.6",
    "a\r\nb\rc\u00a0d", "<|im_start|>a<|im_end|>b", "<image> <|image_pad|> <img> image", "what?", "more!", "123", "CAPITALS",
    "/no_think ### edit", "edit: a", "Edit b.",
)  # fmt: skip
"""Texts that a template's filters (trim, lower, tojson, escape, truncate, replace, …) or conditions would change."""
ANSWERS = ("  a cat \n", "\nx\n\n", "<think>a</think>\n\nb", "A <|im_start|> b", "")
"""Answers that a template would change."""

Conversation = tuple[list[dict[str, str]], bool]
"""Messages, and whether an answer comes next."""


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
    """Read and render the checkpoint's chat template.

    Raises ExportError where there is none, it can't be rendered, or it changes a prompt's text.
    """
    source, template = _find_template(checkpoint)
    forms = (_drawing, _first_turn, _continued)
    texts = (PLACEHOLDER, *PROBES)
    rendered = run_bounded(
        "render",
        f"the chat template of {source} can't be rendered",
        template=template,
        conversations=[*(form(text) for form in forms for text in texts), *map(_answered, ANSWERS)],
        variables=template_variables(tokenizer_folder(checkpoint)),
    )
    drawing, first_turn, continued = (
        _filled_in(source, rendered[k * len(texts) : (k + 1) * len(texts)]) for k in range(len(forms))
    )
    _check_answers(source, continued, rendered[len(forms) * len(texts) :])
    next_turn = continued.partition(ANSWER)[2]
    if first_turn.replace(PLACEHOLDER, QUESTION) + ANSWER + next_turn != continued:
        raise ExportError(
            f"the chat template of {source} writes a question otherwise once it is answered; a conversation only appends to what "
            "it has read: make both the same"
        )
    return PromptTemplates(drawing=drawing, first_turn=first_turn, next_turn=next_turn)


def _drawing(prompt: str) -> Conversation:
    return _messages([prompt]), False


def _first_turn(prompt: str) -> Conversation:
    return _messages([prompt]), True


def _continued(prompt: str) -> Conversation:
    return _messages([QUESTION, ANSWER, prompt]), True


def _answered(answer: str) -> Conversation:
    return _messages([QUESTION, answer, PLACEHOLDER]), True


def _messages(turns: Sequence[str]) -> list[dict[str, str]]:
    roles = ["system", *("user" if k % 2 == 0 else "assistant" for k in range(len(turns)))]
    return [{"role": role, "content": text} for role, text in zip(roles, [SYSTEM_PROMPT, *turns], strict=True)]


def _filled_in(source: Path, rendered: Sequence[str]) -> str:
    """The prompt template: the first text. Raises ExportError where PROBES, whose renderings follow, are changed."""
    template, *others = rendered
    if template.count(PLACEHOLDER) != 1:
        raise ExportError(f"the chat template of {source} does not hold the prompt once")
    if (probe := _changed_text(template, PLACEHOLDER, PROBES, others)) is not None:
        raise ExportError(
            f"the chat template of {source} changes a prompt such as {probe[:20]!r} (by a filter such as trim, or a "
            "condition); an exported prompt holds the text as it is: take that out of the template"
        )
    return template


def _check_answers(source: Path, continued: str, rendered: Sequence[str]) -> None:
    """Raises ExportError where the template of a continued conversation changes ANSWERS, whose renderings these are."""
    if continued.count(ANSWER) != 1:
        raise ExportError(f"the chat template of {source} does not hold an answer once")
    if (answer := _changed_text(continued, ANSWER, ANSWERS, rendered)) is not None:
        raise ExportError(
            f"the chat template of {source} changes an answer such as {answer[:20]!r}; a conversation holds what the model "
            "said: take that out of the template"
        )


def _changed_text(template: str, placeholder: str, texts: Sequence[str], rendered: Sequence[str]) -> str | None:
    """The first text whose rendering isn't the template with the text in the placeholder's place, or None."""
    pairs = zip(texts, rendered, strict=True)
    return next((text for text, result in pairs if result != template.replace(placeholder, text)), None)


def _find_template(checkpoint: Path) -> tuple[Path, str]:
    """The chat template that the original draws with, its tokenizer's, and its file.

    Where the tokenizer has none, the processor's.
    """
    tokenizer, processor = tokenizer_folder(checkpoint), checkpoint / "processor"
    for folder in dict.fromkeys((tokenizer, processor)):
        for name in ("chat_template.jinja", "tokenizer_config.json", "chat_template.json", "processor_config.json"):
            text = _template_in(folder / name)
            if text is not None:
                return folder / name, text
    raise ExportError(f"{processor} has no chat template (chat_template.jinja, tokenizer_config.json or chat_template.json)")


def _template_in(file: Path) -> str | None:
    """The template in a file, None where it holds none."""
    if file.suffix != ".jinja":
        return _default(file, read_optional_json(file).get("chat_template"))
    if not file.is_file():
        return None
    text = read_text(file)
    if text.startswith("\ufeff"):
        raise ExportError(f"{file} begins with a byte order mark, which would stand in every prompt: save it without")
    return text


def _default(file: Path, stored: Any) -> str | None:
    """The template itself, or the one named "default" of several: an object, or a list of objects with name and template."""
    if isinstance(stored, list):
        pairs = [(entry.get("name"), entry.get("template")) if isinstance(entry, dict) else (None, None) for entry in stored]
        stored = {name: text for name, text in pairs if isinstance(name, str)}
    if isinstance(stored, dict):
        if "default" not in stored:
            raise ExportError(f"{file} has chat templates, {', '.join(stored)}, of which none is named default")
        stored = stored["default"]
    if stored is not None and not isinstance(stored, str):
        raise ExportError(f"{file} has a chat_template that is neither a text nor an object of named texts")
    return stored
