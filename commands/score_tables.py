"""Scores of benchmarks as tables and sentences for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.run import Outcome
    from ..evaluation.scores import Average


def outcome_text(outcome: Outcome) -> str:
    """A model's averages, below the gaps of its set."""
    from ..evaluation.scores import gap_lines

    tables = [score_table(outcome.name, outcome.averages)]
    if outcome.shared is not None:
        tables.append(score_table(f"{outcome.name}, samples that all published models were scored on", outcome.shared))
    return "\n".join([*gap_lines(outcome.completeness), *tables])


def score_table(title: str, averages: Mapping[str, Average], signed: bool = False) -> str:
    """Averages by subtask as lines of text, with the intervals below."""
    form = "+.2f" if signed else ".2f"
    tasks = dict.fromkeys(task for average in averages.values() for task in average.tasks)
    rows = [["", *averages]]
    for task in tasks:
        cells = [average.tasks.get(task) for average in averages.values()]
        rows.append([task, *("" if cell is None else format(cell, form) for cell in cells)])
    totals = [average.all for average in averages.values()]
    rows.append(["average", *("not given" if each is None else format(each.value, form) for each in totals)])
    if any(each is not None and each.low is not None for each in totals):
        bounds = [None if each is None or each.low is None else (each.low, each.high) for each in totals]
        rows.append(["95 % interval", *("" if pair is None else f"{pair[0]:{form}} to {pair[1]:{form}}" for pair in bounds)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(widths[0]) if k == 0 else cell.rjust(widths[k]) for k, cell in enumerate(row)) for row in rows]
    return "\n".join([f"{title}:", *lines, ""])


def verdict_line(ours: str, theirs: str, average: Average) -> str:
    """A paired difference in words."""
    total = average.all
    if total is None:
        return "No difference is given: a set is incomplete (--allow-incomplete compares what both have)."
    if total.low is None or total.high is None:
        return f"{ours} scores {total.value:+.2f} against {theirs}; there are too few samples for an interval."
    if total.low <= 0 <= total.high:
        return f"{ours} and {theirs} are not told apart: {_difference(total.value, total.low, total.high)}."
    word = "better" if total.value > 0 else "worse"
    return f"{ours} is {word} than {theirs}: {_difference(total.value, total.low, total.high)}."


def _difference(value: float, low: float, high: float) -> str:
    return f"the difference is {value:+.2f}, its 95 % interval {low:+.2f} to {high:+.2f}"
