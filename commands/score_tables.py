"""Scores of benchmarks as tables and sentences for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.run import Outcome
    from ..evaluation.scores import Average

NARROW = "The interval is too narrow: a subtask has fewer than 5 samples."


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
    notes = [NARROW] if any(each is not None and each.is_narrow for each in totals) else []
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(widths[0]) if k == 0 else cell.rjust(widths[k]) for k, cell in enumerate(row)) for row in rows]
    return "\n".join([f"{title}:", *lines, *notes, ""])


def verdict_line(ours: str, theirs: str, average: Average) -> str:
    """A paired difference in words."""
    total = average.all
    if total is None:
        if not average.tasks:
            return f"No difference is given: no sample has a score of both {ours} and {theirs}."
        return "No difference is given: a set is incomplete (--allow-incomplete compares the samples that both have scores of)."
    if total.low is None or total.high is None:
        return f"{ours} minus {theirs} is {total.value:+.2f}; it has no interval, because a subtask has a single sample."
    text = _difference(total.value, total.low, total.high)
    if total.low <= 0 <= total.high:
        return f"{ours} and {theirs} can't be told apart: {text}."
    if total.is_narrow:
        return f"{ours} and {theirs} have too few samples to be told apart: {text}."
    return f"{ours} scores {'higher' if total.value > 0 else 'lower'} than {theirs}: {text}."


def _difference(value: float, low: float, high: float) -> str:
    return f"the difference is {value:+.2f}, its 95 % interval {low:+.2f} to {high:+.2f}"
