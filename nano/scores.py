"""A score and how sure it is: Wilson's interval of a rate, the targets it is held against, the table of all scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEVIATIONS = 1.959964
"""Of a normal distribution, so that 95 % lie within."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a rate must be at least, and what it should be; with `counts_wrong`, the rate of wrong answers: at most.

    None: nothing is asked for.
    """

    least: float | None = None
    aim: float | None = None
    counts_wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """How many answers of an ability were right. kinds: (right, all) by kind of task; wrong: some requests and mistakes."""

    name: str
    title: str
    target: Target
    right: int
    samples: int
    kinds: Mapping[str, tuple[int, int]]
    wrong: tuple[tuple[str, tuple[str, ...]], ...]
    seconds: float

    @property
    def rate(self) -> float:
        """What the target speaks of: the part of answers that were right, or wrong."""
        return self._counted / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Where the rate of very many samples lies, with 95 % confidence."""
        return wilson(self._counted, self.samples)

    @property
    def is_reached(self) -> bool:
        """Whether the rate is what it must be at least (or at most)."""
        if self.target.least is None:
            return True
        return self.rate <= self.target.least if self.target.counts_wrong else self.rate >= self.target.least

    @property
    def _counted(self) -> int:
        return self.samples - self.right if self.target.counts_wrong else self.right

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "name": self.name,
            "title": self.title,
            "rate": round(self.rate, 4),
            "interval": [round(low, 4), round(high, 4)],
            "samples": self.samples,
            "at most" if self.target.counts_wrong else "at least": self.target.least,
            "aim": self.target.aim,
            "reached": self.is_reached,
            "kinds": {kind: {"right": right, "samples": samples} for kind, (right, samples) in self.kinds.items()},
            "wrong": [{"asked": asked, "mistakes": list(mistakes)} for asked, mistakes in self.wrong],
            "seconds": round(self.seconds, 1),
        }


def wilson(successes: int, samples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson 1927, Probable inference, the law of succession)."""
    rate, square = successes / samples, DEVIATIONS**2
    middle = (rate + square / (2 * samples)) / (1 + square / samples)
    half = DEVIATIONS / (1 + square / samples) * math.sqrt(rate * (1 - rate) / samples + square / (4 * samples**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(scores: Sequence[Score]) -> str:
    """The scores as a text table; what is not reached has a mark."""
    rows = [["ability", "score", "95 % confidence", "needed", "aim", "samples", ""]]
    for score in scores:
        low, high = score.interval
        rows.append(
            [
                score.title,
                _percent(score.rate),
                f"{100 * low:.1f}-{100 * high:.1f} %",
                _needed(score.target),
                "" if score.target.aim is None else _percent(score.target.aim, 0),
                str(score.samples),
                "" if score.is_reached else "not reached",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _line(row: list[str], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells, row[-1]]).rstrip()


def _needed(target: Target) -> str:
    if target.least is None:
        return ""
    return f"{'at most' if target.counts_wrong else 'at least'} {_percent(target.least, 0)}"


def _percent(rate: float, digits: int = 1) -> str:
    return f"{100 * rate:.{digits}f} %"
