"""The grammar of WORLD.md: its rules as regular expressions, so that sentences can be held against them."""

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
    found = {}
    for line in (line for block in blocks("grammar") for line in block):
        name, _, alternatives = line.partition(": ")
        assert name not in found, f"{name} stands twice"
        found[name] = alternatives.split(" | ")
    return found


def pattern(name: str, of: Rules) -> re.Pattern[str]:
    """What matches exactly the sentences of a rule."""
    return re.compile(_expression(name, of))


def sentence_pattern(template: str, of: Rules) -> re.Pattern[str]:
    """What matches the sentences of a template with references to rules."""
    return re.compile(_filled(template, of))


def without(of: Rules, name: str, alternative: str) -> dict[str, Sequence[str]]:
    """The rules without one alternative of one of them; a rule with none left matches nothing."""
    return {**of, name: [other for other in of[name] if other != alternative]}


def _expression(name: str, of: Rules) -> str:
    alternatives = [_filled(alternative, of) for alternative in of[name]]
    return f"(?:{'|'.join(alternatives)})" if alternatives else r"(?!)"


def _filled(template: str, of: Rules) -> str:
    """Every second piece of the template is the name of a rule."""
    pieces = REFERENCE.split(template)
    return "".join(_expression(piece, of) if odd % 2 else re.escape(piece) for odd, piece in enumerate(pieces))
