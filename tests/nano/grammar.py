"""The grammar of WORLD.md, its rules as regular expressions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import omnigen2_rt.nano

PAGE = (Path(omnigen2_rt.nano.__file__).parent / "WORLD.md").read_text(encoding="utf-8")
REFERENCE = re.compile(r"\{([a-z-]+)\}")

Rules = Mapping[str, Sequence[str]]


def blocks(kind: str) -> Iterator[list[str]]:
    """The lines of each fenced block of a kind."""
    for block in re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL):
        yield [line for line in block.splitlines() if line]


def rules() -> dict[str, list[str]]:
    """Each rule's alternatives."""
    alternatives_of = {}
    for line in (line for block in blocks("grammar") for line in block):
        name, _, alternatives = line.partition(": ")
        assert name not in alternatives_of, f"{name} is defined twice"
        alternatives_of[name] = alternatives.split(" | ")
    return alternatives_of


def pattern(name: str, grammar: Rules) -> re.Pattern[str]:
    """The pattern of exactly the sentences of a rule."""
    return re.compile(_expression(name, grammar))


def sentence_pattern(template: str, grammar: Rules) -> re.Pattern[str]:
    """The pattern of the sentences of a template with references to rules."""
    return re.compile(_filled(template, grammar))


def without(grammar: Rules, name: str, alternative: str) -> dict[str, Sequence[str]]:
    """The rules without one alternative of one of them; a rule with none left matches nothing."""
    return {**grammar, name: [other for other in grammar[name] if other != alternative]}


def _expression(name: str, grammar: Rules) -> str:
    alternatives = [_filled(alternative, grammar) for alternative in grammar[name]]
    return f"(?:{'|'.join(alternatives)})" if alternatives else r"(?!)"


def _filled(template: str, grammar: Rules) -> str:
    """Every second piece of the template is the name of a rule."""
    pieces = REFERENCE.split(template)
    return "".join(_expression(piece, grammar) if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces))
