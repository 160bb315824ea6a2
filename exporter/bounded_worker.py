"""The child process for what a checkpoint's author wrote as a program: the chat template, and the tokenizer's expressions.

A script, run by `bounded.py`; it imports nothing of this package. It limits its own processor time and memory where the system
can, reads a JSON object from stdin and writes another to stdout: `{"result": …}`, or `{"error": a sentence's end}`.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

LONGEST_TEXT = 1_000_000
"""The characters that a rendered template may have."""
OTHER_DATES = (datetime(2001, 2, 3, 4, 5, 6), datetime(2042, 11, 22, 13, 34, 45))


def main() -> None:
    """Do the job that stdin describes."""
    order = json.load(sys.stdin)
    _limit(order["cpu_s"], order["memory_bytes"])
    try:
        answer = {"result": JOBS[order["job"]](**order["arguments"])}
    except BaseException as error:  # a panic of the tokenizers library is no Exception
        answer = {"error": str(error).strip()[:500] or type(error).__name__}
    json.dump(answer, sys.stdout)


def _limit(cpu_s: int, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # Windows: the time limit of `bounded.py` holds alone
        return
    for kind, value in ((resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS has no limit of the address space
            resource.setrlimit(kind, (value, value))


def render(template: str, conversations: Sequence[tuple[list[dict[str, str]], bool]], variables: dict[str, Any]) -> list[str]:
    """The template rendered for each conversation, as transformers does (utils/chat_template_utils.py).

    conversations: messages, and whether an answer comes next.
    variables: the special tokens by their names.
    Raises an error of any kind, ValueError for a text that is too long or depends on the date.
    """
    clock = Clock()
    compiled = _environment(clock).from_string(template)
    variables = {**variables, "tools": None, "documents": None}

    def texts() -> list[str]:
        return [
            _text(compiled.generate(**variables, messages=messages, add_generation_prompt=answer_next))
            for messages, answer_next in conversations
        ]

    first = texts()
    for date in OTHER_DATES if clock.asked else ():
        clock.now = date
        if texts() != first:
            raise ValueError("it puts the date into the prompt, which an exported prompt can't hold: take strftime_now out of it")
    return first


class Clock:
    """The time that a template asks for. asked: whether it has."""

    def __init__(self) -> None:
        self.now = datetime.now()
        self.asked = False

    def strftime_now(self, form: str) -> str:
        self.asked = True
        return self.now.strftime(form)


def _environment(clock: Clock) -> Any:
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}` … `{% endgeneration %}`, which marks an answer for training: renders its body."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

        def _body(self, caller: Callable[[], str]) -> str:
            return caller()

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals.update(raise_exception=_raise, strftime_now=clock.strftime_now)
    del environment.filters["random"], environment.globals["lipsum"]  # another prompt each time
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise ValueError(f"it says {message!r}")


def _text(pieces: Any) -> str:
    text = ""
    for piece in pieces:
        text += piece
        if len(text) > LONGEST_TEXT:
            raise ValueError(f"its text is longer than {LONGEST_TEXT} characters")
    return text


def tokenize(tokenizer: str, texts: Sequence[str]) -> dict[str, Any]:
    """Load a tokenizer.json and encode each text.

    Returns the ids of its added tokens by their text ("added"), and the token with the largest id ("last": id and text).
    """
    import tokenizers

    loaded = tokenizers.Tokenizer.from_str(tokenizer)
    loaded.no_truncation()
    loaded.no_padding()
    for text in texts:
        loaded.encode(text, add_special_tokens=False)
    vocabulary = loaded.get_vocab(with_added_tokens=True)
    added = {token.content: number for number, token in loaded.get_added_tokens_decoder().items()}
    return {"added": added, "last": max((number, token) for token, number in {"": -1, **vocabulary}.items())}


JOBS: dict[str, Callable[..., Any]] = {"render": render, "tokenize": tokenize}

if __name__ == "__main__":
    main()
