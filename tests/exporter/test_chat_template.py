"""The prompt templates of a checkpoint: what transformers renders, within bounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from omnigen2_rt.exporter import bounded
from omnigen2_rt.exporter.chat_template import PLACEHOLDER, SYSTEM_PROMPT, read_prompt_templates
from omnigen2_rt.exporter.tokenizer import template_variables
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.checkpoints import A, edit_json

BASE: str = json.loads((A / "processor/chat_template.json").read_text())["chat_template"]
CONTENT = "{{ message['content'] }}"
SPECIAL = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}, "pad_token": "<|endoftext|>"}


def checkpoint(folder: Path, template: Any = None, file: str = "chat_template.jinja", **config: Any) -> Path:
    """A folder with the files of a tokenizer that a template needs."""
    processor = folder / "processor"
    processor.mkdir(exist_ok=True)
    (processor / "tokenizer.json").touch()
    (processor / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": {}, **SPECIAL, **config}))
    if isinstance(template, str) and file.endswith(".jinja"):
        (processor / file).write_text(template, encoding="utf-8")
    elif template is not None:
        edit_json(processor / file, chat_template=template) if (processor / file).exists() else (processor / file).write_text(
            json.dumps({"chat_template": template})
        )
    return folder


def drawing(folder: Path) -> str:
    return read_prompt_templates(folder).drawing


SAME = {
    "end token": BASE.replace("<|im_end|>", "{{ eos_token }}"),
    "tokens before a turn": BASE.replace("<|im_start|>", "{{ bos_token }}{{ pad_token }}<|im_start|>"),
    "token of the model's own": "{{ image_token }}" + BASE,
    "exception in a branch": "{% if not messages %}{{ raise_exception('none') }}{% endif %}" + BASE,
    "break": "{% for m in messages %}{% break %}{% endfor %}" + BASE,
    "generation": BASE.replace(CONTENT, "{% generation %}" + CONTENT + "{% endgeneration %}"),
    "JSON": "{{ {'a': '<ä>'} | tojson }}" + BASE,
    "tools": "{{ tools is defined }}{{ documents is none }}{% if tools %}x{% endif %}" + BASE,
    "date unused": "{% set year = strftime_now('%Y') %}" + BASE,
    "newline at the end": BASE + "\n",
    "carriage returns": BASE.replace("\n", "\r\n"),
    "blocks on lines of their own": "  {% if true %}\n  x\n  {% endif %}\n" + BASE,
}  # fmt: skip


@pytest.mark.parametrize("template", SAME.values(), ids=SAME)
def test_drawing_template_is_what_transformers_renders(template: str, tmp_path: Path) -> None:
    """Special tokens, globals and extensions of transformers rendered as nothing, or not at all."""
    folder = checkpoint(tmp_path, template, extra_special_tokens={"image_token": "<|image_pad|>"})
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": PLACEHOLDER}]
    variables = template_variables(folder / "processor")
    (expected,), _ = render_jinja_template([messages], chat_template=template, **variables)
    assert drawing(folder) == expected
    end = "<|endoftext|>"
    assert variables == {"eos_token": "<|im_end|>", "pad_token": end, "unk_token": end, "image_token": "<|image_pad|>"}


def test_special_tokens_of_the_older_file_count_without_a_decoder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path, added_tokens_decoder=None) / "processor"
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "additional_special_tokens": ["<a>"]}))
    assert template_variables(folder)["eos_token"] == "</s>"
    assert template_variables(folder)["additional_special_tokens"] == ["<a>"]


@pytest.mark.parametrize(
    "change",
    [
        "| trim", "| lower", "| tojson", "| e", "| truncate(60)", "| replace('<think>', '')", ".strip()",
        "| replace('\u00a0', ' ')",
        ".split('</think>')[-1]", "| replace('<image>', '')", ".replace('\\r\\n', '\\n')", ".split('<|im_end|>')[0]",
        ".removesuffix('!')",
    ],
)  # fmt: skip
def test_template_that_changes_the_prompt_is_refused(change: str, tmp_path: Path) -> None:
    """A prompt with spaces around it was drawn otherwise than by the original."""
    template = BASE.replace(CONTENT, "{{ message['content'] " + change + " }}")
    with pytest.raises(ExportError, match="changes a prompt such as .* an exported prompt holds the text as it is"):
        read_prompt_templates(checkpoint(tmp_path, template))


def test_template_that_treats_an_empty_prompt_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="changes a prompt such as ''"):
        read_prompt_templates(checkpoint(tmp_path, BASE.replace(CONTENT, "{{ message['content'] or 'nothing' }}")))


def test_template_that_changes_an_answer_is_refused(tmp_path: Path) -> None:
    """A conversation would go on from another text than transformers'."""
    changed = "{{ message['content'] | trim if message['role'] == 'assistant' else message['content'] }}"
    with pytest.raises(ExportError, match="changes an answer such as"):
        read_prompt_templates(checkpoint(tmp_path, BASE.replace(CONTENT, changed)))


def test_template_that_writes_a_question_otherwise_later_is_refused(tmp_path: Path) -> None:
    """The later turns were cut out of one rendering and never compared with the first turn."""
    with pytest.raises(ExportError, match="writes a question otherwise once it is answered"):
        read_prompt_templates(checkpoint(tmp_path, "{{ messages | length }}" + BASE))


REFUSED = {
    "date": ("{{ strftime_now('%d %B %Y') }}" + BASE, "it puts the date into the prompt"),
    "chance": ("{{ [1, 2] | random }}" + BASE, "No filter named 'random'"),
    "exception": ("{{ raise_exception('only one user') }}", "it says 'only one user'"),
    "syntax": ("{% if", "can't be rendered: unexpected 'end of template'"),
    "attribute of Python": ("{{ messages.__class__.__mro__ }}", "is unsafe"),
    "text of 10 GB": ("{{ 'a' * 10**10 }}", "can't be rendered"),
    "long text": ("{% for i in range(99999) %}0123456789ab{% endfor %}", "its text is longer than 1000000 characters"),
    "endless recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "byte order mark": ("\ufeff" + BASE, "begins with a byte order mark"),
    "git-lfs pointer": ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "is a git-lfs pointer"),
    "prompt twice": (BASE + BASE, "does not hold the prompt once"),
}


@pytest.mark.parametrize(("template", "message"), REFUSED.values(), ids=REFUSED)
def test_template_that_can_not_be_exported_is_refused(template: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        read_prompt_templates(checkpoint(tmp_path, template))


@pytest.mark.parametrize(
    "template",
    ["{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ '%1000000000d' | format(1) }}"],
)
def test_template_that_takes_forever_is_stopped(template: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Export hung on nested loops, and filled the memory with a number of a thousand million digits."""
    monkeypatch.setattr(bounded, "CPU_S", 1)
    with pytest.raises(ExportError, match="can't be rendered"):
        read_prompt_templates(checkpoint(tmp_path, template))


def test_tokenizers_template_comes_before_the_processors(tmp_path: Path) -> None:
    """The original draws with the tokenizer's; the processor's chat_template.json was taken."""
    folder = checkpoint(tmp_path, chat_template="config" + BASE)
    checkpoint_json = folder / "processor/chat_template.json"
    checkpoint_json.write_text(json.dumps({"chat_template": "json" + BASE}))
    assert drawing(folder).startswith("config<|im_start|>")
    (folder / "processor/chat_template.jinja").write_text("jinja" + BASE)
    assert drawing(folder).startswith("jinja<|im_start|>")
    (folder / "processor/chat_template.jinja").unlink()
    edit_json(folder / "processor/tokenizer_config.json", chat_template=None)
    assert drawing(folder).startswith("json<|im_start|>")


@pytest.mark.parametrize(
    "templates",
    [
        [{"name": "tool_use", "template": "x"}, {"name": "default", "template": BASE}],
        {"tool_use": "x", "default": BASE},
    ],
)
def test_named_templates_give_the_default_one(templates: Any, tmp_path: Path) -> None:
    assert drawing(checkpoint(tmp_path, chat_template=templates)).endswith("{prompt}<|im_end|>\n")


@pytest.mark.parametrize(
    ("template", "message"),
    [({"a": "x"}, "has chat templates, a, of which none is named default"), (3, "neither a text"), ([3], "none is named")],
)
def test_chat_template_of_another_form_is_refused(template: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        read_prompt_templates(checkpoint(tmp_path, chat_template=template))
