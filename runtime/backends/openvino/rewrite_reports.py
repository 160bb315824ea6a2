"""Reports of rewrites: how many places of a model were rewritten, and why the other candidates were not.

A rewrite's candidates are the nodes for which its first, cheap condition holds. A function matches one of them or raises
`Mismatch`. Knows nothing of a node but its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

Match = TypeVar("Match")


class Refusal(NamedTuple):
    """A candidate that was not rewritten.

    node: its name; empty where the reason concerns the whole graph.
    reason: what the rewrite looked for, and what is there instead.
    """

    node: str
    reason: str


class RewriteReport(NamedTuple):
    """The result of one rewrite of a model.

    name: the rewrite's function.
    rewritten: how many places it rewrote.
    refusals: the candidates that it did not.
    """

    name: str
    rewritten: int
    refusals: tuple[Refusal, ...] = ()


class Mismatch(Exception):
    """A candidate is not what a rewrite looks for. Its text becomes the refusal's reason."""


def require(holds: bool, expected: str, actual: object) -> None:
    """Raises Mismatch with the expected and the actual value, unless the condition holds."""
    if not holds:
        raise Mismatch(f"looked for {expected}; found {actual}")


def match_all(candidates: Iterable[Any], match: Callable[[Any], Match]) -> tuple[list[Match], tuple[Refusal, ...]]:
    """The match of every candidate, and a refusal for each whose `match` raises Mismatch."""
    matches, refusals = [], []
    for node in candidates:
        try:
            matches.append(match(node))
        except Mismatch as mismatch:
            refusals.append(Refusal(node.get_friendly_name(), str(mismatch)))
    return matches, tuple(refusals)
