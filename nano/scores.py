"""Scores with their confidence intervals and targets, and the table of all scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Z_95 = 1.959964
"""Standard deviations of the normal distribution that contain 95 %."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """The target of a rate.

    required: the lowest rate that passes; None for no requirement.
    aim: the rate to aim for, or None.
    counts_wrong: the rate is that of wrong answers, and `required` is the highest one that passes.
    """

    required: float | None = None
    aim: float | None = None
    counts_wrong: bool = False


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result of an ability.

    right: the number of right answers.
    samples: the number of all answers.
    kinds: (right, all) answers by kind of task.
    failures: (request, mistakes) of some wrong answers.
    """

    name: str
    title: str
    target: Target
    right: int
    samples: int
    kinds: Mapping[str, tuple[int, int]]
    failures: tuple[tuple[str, tuple[str, ...]], ...]
    seconds: float

    @property
    def rate(self) -> float:
        """The share of right answers, or of wrong ones where the target counts those."""
        return self._count / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the rate."""
        return wilson(self._count, self.samples)

    @property
    def is_reached(self) -> bool:
        """Whether the rate meets the requirement."""
        if self.target.required is None:
            return True
        return self.rate <= self.target.required if self.target.counts_wrong else self.rate >= self.target.required

    @property
    def by_size(self) -> dict[str, tuple[int, int]]:
        """(right, all) answers to requests that state the things' size, and to those that don't; empty for other tasks."""
        parts = {}
        for name in ("sized", "unsized"):
            counts = [count for kind, count in self.kinds.items() if kind.endswith(f", {name}")]
            if counts:
                parts[name] = sum(right for right, _ in counts), sum(samples for _, samples in counts)
        return parts

    @property
    def _count(self) -> int:
        return self.samples - self.right if self.target.counts_wrong else self.right

    def to_json(self) -> dict[str, Any]:
        low, high = self.interval
        return {
            "name": self.name,
            "title": self.title,
            "rate": round(self.rate, 4),
            "interval": [round(low, 4), round(high, 4)],
            "samples": self.samples,
            "at most" if self.target.counts_wrong else "at least": self.target.required,
            "aim": self.target.aim,
            "reached": self.is_reached,
            "kinds": {kind: {"right": right, "samples": samples} for kind, (right, samples) in self.kinds.items()},
            "wrong": [{"asked": request, "mistakes": list(mistakes)} for request, mistakes in self.failures],
            "seconds": round(self.seconds, 1),
        }


def wilson(successes: int, samples: int) -> tuple[float, float]:
    """The 95 % confidence interval of a rate (Wilson 1927, "Probable inference, the law of succession")."""
    rate, square = successes / samples, Z_95**2
    middle = (rate + square / (2 * samples)) / (1 + square / samples)
    half = Z_95 / (1 + square / samples) * math.sqrt(rate * (1 - rate) / samples + square / (4 * samples**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def table(scores: Sequence[Score]) -> str:
    """The scores as a text table that marks the targets not reached."""
    rows = [["ability", "score", "95 % confidence", "needed", "aim", "samples", ""]]
    for score in scores:
        low, high = score.interval
        rows.append(
            [
                score.title,
                _percent(score.rate),
                f"{100 * low:.1f}-{100 * high:.1f} %",
                _requirement(score.target),
                "" if score.target.aim is None else _percent(score.target.aim, 0),
                str(score.samples),
                "" if score.is_reached else "not reached",
            ]
        )
        rows += [[f"  {name}", *_counted(right, samples)] for name, (right, samples) in score.by_size.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(_line(row, widths) for row in rows)


def _counted(right: int, samples: int) -> list[str]:
    """The cells of a part of a row."""
    low, high = wilson(right, samples)
    return [_percent(right / samples), f"{100 * low:.1f}-{100 * high:.1f} %", "", "", str(samples), ""]


def _line(row: list[str], widths: list[int]) -> str:
    cells = [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
    return "  ".join([row[0].ljust(widths[0]), *cells, row[-1]]).rstrip()


def _requirement(target: Target) -> str:
    if target.required is None:
        return ""
    return f"{'at most' if target.counts_wrong else 'at least'} {_percent(target.required, 0)}"


def _percent(rate: float, digits: int = 1) -> str:
    return f"{100 * rate:.{digits}f} %"
