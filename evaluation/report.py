"""The page of a model's results: one HTML file that holds its pictures and needs nothing from elsewhere. Worst samples first."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from PIL import Image

from ..runtime.errors import RequestError
from ..runtime.images.loading import load_image
from .benchmark import Benchmark
from .endpoint import jpeg_bytes
from .judging import Judging
from .pictures import picture_path
from .samples import Sample, subtasks
from .scores import Average, Completeness, SampleScore, gap_lines
from .statistics import FEW_SAMPLES, Estimate

PAGE = Path(__file__).parent / "page"
INPUT_PX, OUTPUT_PX = 160, 320
JPEG_QUALITY = 80


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A model's results as the page shows them.

    name: the model's.
    folder: its results.
    completeness: the gaps of its set.
    """

    name: str
    folder: Path
    scores: Sequence[SampleScore]
    averages: Mapping[str, Average]
    completeness: Completeness


def report_page(
    benchmark: Benchmark,
    model: Shown,
    subtitle: str,
    other: Shown | None = None,
    difference: Mapping[str, Average] | None = None,
) -> str:
    """The page of one model, or of two side by side.

    subtitle: a line about the judge. other, difference: the model to compare with, and the differences to it.
    """
    style, script = ((PAGE / name).read_text(encoding="utf-8") for name in ("style.css", "filter.js"))
    versus = "" if other is None else f" against {other.name}"
    theirs = {} if other is None else {score.sample.name: score for score in other.scores}
    ordered = sorted(model.scores, key=lambda score: _rank(score, theirs))
    return Template((PAGE / "report.html").read_text(encoding="utf-8")).substitute(
        title=escape(f"{benchmark.title}: {model.name}{versus}"),
        subtitle=escape(subtitle),
        notices=_notices([model] if other is None else [model, other]),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        table=_table(model, other, difference),
        footnotes=_footnotes(model, difference),
        options="".join(map(_option, subtasks(score.sample for score in model.scores))),
        cards="\n".join(_card(benchmark, score, model, theirs.get(score.sample.name), other) for score in ordered),
    )


def _option(task: str) -> str:
    return f'<option value="{escape(task)}">{escape(task)}</option>'


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _rank(score: SampleScore, theirs: Mapping[str, SampleScore]) -> tuple[bool, float, str]:
    """The place of a sample: the worst first, or with another model the largest loss; those without a score last."""
    gain = _gain(score, theirs.get(score.sample.name)) if theirs else score.overall
    return gain is None, 0.0 if gain is None else gain, score.sample.name


def _gain(score: SampleScore, other: SampleScore | None) -> float | None:
    return None if score.overall is None or other is None or other.overall is None else score.overall - other.overall


def _notices(models: Sequence[Shown]) -> str:
    """The gaps of the models' sets; those of both once."""
    common = set.intersection(*({*gap_lines(model.completeness)} for model in models))
    named = [(line, f"{model.name}: {line}") for model in models for line in gap_lines(model.completeness)]
    lines = dict.fromkeys(line if line in common else with_name for line, with_name in named)
    return "".join(f'<p class="notice">{escape(line)}</p>' for line in lines)


def _footnotes(model: Shown, difference: Mapping[str, Average] | None) -> str:
    text = "In brackets: the 95 % interval of a bootstrap over samples, within subtasks."
    if difference is not None:
        text += " A difference is taken sample by sample; where its interval holds 0, the two can't be told apart."
    if any(each.all is not None and each.all.is_narrow for each in (*model.averages.values(), *(difference or {}).values())):
        text += f" These intervals are too narrow: a subtask has fewer than {FEW_SAMPLES} samples."
    return f'<p class="quiet">{text}</p>'


def _table(model: Shown, other: Shown | None, difference: Mapping[str, Average] | None) -> str:
    columns: list[tuple[str, Average]] = [(name, average) for name, average in model.averages.items()]
    if other is not None and difference is not None:
        overall = [*model.averages][-1]
        columns = [
            (f"{overall}, {model.name}", model.averages[overall]),
            (f"{overall}, {other.name}", other.averages[overall]),
            *((f"difference of {name}", average) for name, average in difference.items()),
        ]
    tasks = dict.fromkeys(task for _, average in columns for task in average.tasks)
    head = "".join(f"<th scope=col>{escape(name)}</th>" for name, _ in columns)
    counts = {task: sum(score.sample.task == task for score in model.scores) for task in tasks}
    rows = [
        f"<tr><th scope=row>{escape(task)}</th><td>{counts[task]}</td>"
        + "".join(f"<td>{_number(average.tasks.get(task))}</td>" for _, average in columns)
        + "</tr>"
        for task in tasks
    ]
    totals = "".join(f"<td>{_estimate(average.all)}</td>" for _, average in columns)
    rows.append(f'<tr class="total"><th scope=row>average of subtasks</th><td>{len(model.scores)}</td>{totals}</tr>')
    head = f"<tr><th scope=col>subtask</th><th scope=col>samples</th>{head}</tr>"
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return "not given"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f}<small>[{estimate.low:.2f}, {estimate.high:.2f}]</small>"


def _card(
    benchmark: Benchmark, score: SampleScore, model: Shown, theirs: SampleScore | None, other: Shown | None
) -> str:
    sample = score.sample
    is_missing = any(each.overall is None or each.problems for each in (score, theirs) if each is not None)
    figures = [_figure(file, f"input {number}", INPUT_PX, "input") for number, file in enumerate(sample.inputs, 1)]
    figures.append(_output_figure(model, sample))
    if other is not None:
        figures.append(_output_figure(other, sample if theirs is None else theirs.sample))
    notes = _notes(benchmark, score, model.name if other is not None else "")
    if theirs is not None and other is not None:
        notes += _notes(benchmark, theirs, other.name)
    return (
        f'<article data-task="{escape(sample.task)}" data-missing="{"yes" if is_missing else "no"}">'
        f'<h2><span>{escape(sample.task)} <span class="quiet">{escape(sample.key)}</span></span>'
        f'<span class="score">{_heading(benchmark, score, theirs)}</span></h2>'
        f"<p>{escape(sample.instruction)}</p>"
        f'<div class="pictures">{"".join(figures)}</div><dl>{notes}</dl></article>'
    )


def _heading(benchmark: Benchmark, score: SampleScore, theirs: SampleScore | None) -> str:
    text = '<span class="bad">no score</span>' if score.overall is None else f"{benchmark.overall} {score.overall:.2f}"
    gain = _gain(score, theirs)
    if gain is None:
        return text
    return f'{text} <span class="{"bad" if gain < 0 else "good"}">{gain:+.2f}</span>' if gain else f"{text} ±0"


def _notes(benchmark: Benchmark, score: SampleScore, name: str) -> str:
    """The metrics with the judge's reasons, then the problems. name: of the model, where there are two."""
    of_model = f" ({escape(name)})" if name else ""
    notes = []
    for metric in benchmark.metrics:
        for judging in score.judgings.get(metric.name, ()):
            notes.append(f"<dt>{escape(metric.title)}{of_model}: {_value(judging)}</dt><dd>{_reason(judging)}</dd>")
    if not score.judgings:
        notes.append(f'<dt class="bad">missing{of_model}</dt><dd class="bad">{escape("; ".join(score.problems))}</dd>')
    return "".join(notes)


def _value(judging: Judging) -> str:
    if judging.value is None:
        return '<span class="bad">missing</span>'
    grades = judging.grades.scores
    each = ", ".join(f"{name} {value:g}" for name, value in grades.items()) if len(grades) > 1 else ""
    return f"{judging.value:g}{f' <span class=quiet>({escape(each)})</span>' if each else ''}"


def _reason(judging: Judging) -> str:
    problem = judging.grades.problem
    return escape(judging.grades.reason) if problem is None else f'<span class="bad">{escape(problem)}</span>'


def _output_figure(model: Shown, sample: Sample) -> str:
    """A model's picture; none of a sample with a problem, in whose place an earlier run's picture may lie."""
    file = None if sample.problem is not None else picture_path(model.folder, sample)
    return _figure(file, model.name, OUTPUT_PX, "output")


def _figure(file: Path | None, caption: str, side_px: int, kind: str) -> str:
    shown = '<div class="none">no picture</div>'
    if file is not None:
        with suppress(RequestError):
            picture = load_image(file)
            picture.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
            url = f"data:image/jpeg;base64,{base64.b64encode(jpeg_bytes(picture, JPEG_QUALITY)).decode()}"
            shown = f'<img src="{url}" width="{picture.width}" height="{picture.height}" alt="{escape(caption)}">'
    return f'<figure class="{kind}">{shown}<figcaption>{escape(caption)}</figcaption></figure>'
