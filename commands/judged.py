"""The work of `omnigen2 eval` on benchmarks: draws, lets a judge score, prints and writes the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..runtime.errors import OmniGen2Error, RequestError
from ..runtime.parameters import base_name
from .endpoint_options import endpoint_host, noting_client
from .options import check_range, open_pipeline
from .rewritten_samples import rewritten_samples
from .score_tables import outcome_text, score_table, verdict_line
from .terminal import ProgressLine, note, say_lines

if TYPE_CHECKING:
    from ..evaluation.benchmark import Benchmark
    from ..evaluation.judging import Judge
    from ..evaluation.run import Outcome
    from ..evaluation.samples import Sample
    from ..rewriting.plan import RewritePlan

MOST_SAMPLES = 1_000_000
Write = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """The options of drawing, as the command has them. is_done: nothing is drawn.

    rewriting: the plan of rewriting the instructions, or None.
    """

    bundle: str | None
    against: str | None
    against_run: str | None
    name: str | None
    against_name: str | None
    is_done: bool
    changes: Mapping[str, Any]
    engine: tuple[str, str, int | None, str | None]
    rewriting: RewritePlan | None = None


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """The options of judging, as the command has them. fields: those of `Judge`."""

    url: str
    model: str | None
    key_variable: str
    timeout_s: float
    rubric: Path | None
    max_tokens: int | None
    fields: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The options of one evaluation."""

    benchmark: str
    data: Path
    out: Path
    language: str
    subtasks: Sequence[str]
    samples: int | None
    allow_incomplete: bool
    drawing: DrawingOptions
    judge: JudgeOptions | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of an evaluation. name: of its folder. bundle: None for pictures that are there."""

    name: str
    bundle: str | None


def run(plan: Plan, write: Write) -> None:
    """Draw, judge, print and write an evaluation. Raises OmniGen2Error where samples or answers are missing in the end."""
    from ..evaluation.benchmarks import BENCHMARKS
    from ..evaluation.judging import check_rubrics
    from ..evaluation.results import INPUTS, locked_results
    from ..evaluation.samples import chosen_samples

    benchmark = BENCHMARKS[plan.benchmark]
    if plan.samples is not None:
        check_range("samples", plan.samples, 1, MOST_SAMPLES)
    if plan.language not in benchmark.languages:
        raise RequestError(f"language={plan.language!r} is unknown to {benchmark.name}; choose {', '.join(benchmark.languages)}")
    models, judge = _models(plan), None
    with locked_results(plan.out):
        if plan.judge is not None:
            judge = _judge(plan.judge, benchmark, plan.out)
        samples = benchmark.read(plan.data, plan.out / INPUTS, plan.language)
        samples = chosen_samples(samples, plan.subtasks, plan.samples)
        if judge is not None:
            check_rubrics(judge.rubrics, benchmark, samples)
        drawn = [_drawn(plan, benchmark, model, samples) for model in models]
        if judge is None:
            _say_drawn(models, samples, [problems for problems, _ in drawn])
        else:
            _judge_models(plan, benchmark, judge, samples, list(zip(models, drawn, strict=True)), write)


def _models(plan: Plan) -> list[Model]:
    """The models to score. Raises RequestError where the options name none, or contradict each other."""
    options = plan.drawing
    if options.is_done and (options.name is None or options.bundle is not None or options.against is not None):
        raise RequestError("--no-draw needs --name NAME, of pictures in OUT/NAME/fullset, and no bundle; use --against-run")
    if not options.is_done and options.bundle is None:
        raise RequestError("--bundle BUNDLE is missing: the model that draws; --no-draw scores pictures that are there")
    if options.against_name is not None and options.against is None:
        raise RequestError("--against-name belongs to --against")
    if options.against is not None and options.against_run is not None:
        raise RequestError("--against BUNDLE and --against-run NAME exclude each other")
    models = [_model(options.bundle, options.name)]
    if options.against is not None:
        models.append(_model(options.against, options.against_name))
    if options.against_run is not None:
        models.append(_earlier_run(plan.out, options.against_run))
    if len(models) == 2 and models[0].name.casefold() == models[1].name.casefold():
        raise RequestError(f"both models are called {models[0].name!r}: give one of them a --name or --against-name")
    return models


def _model(bundle: str | None, name: str | None) -> Model:
    from ..evaluation.results import ANSWERS, INPUTS, LOCK
    from ..evaluation.samples import safe_name

    if name is None and bundle is not None:
        name = base_name(bundle) or base_name(Path(bundle).resolve())
    folder = safe_name(name or "")
    if not folder or folder.casefold() in (ANSWERS, INPUTS, LOCK):
        raise RequestError(f"results can't be called {folder!r}: give them another --name")
    return Model(name=folder, bundle=bundle)


def _earlier_run(out: Path, name: str) -> Model:
    from ..evaluation.pictures import FULL_SET

    model = _model(None, name)
    if not (out / model.name / FULL_SET).is_dir():
        raise RequestError(f"--against-run {name!r}: there is no earlier run of that name in {str(out)!r}")
    return model


def _drawn(
    plan: Plan, benchmark: Benchmark, model: Model, samples: Sequence[Sample]
) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Draw a model's pictures. Returns the problems by sample, and the settings; none of pictures that were there."""
    from ..evaluation.pictures import draw_samples
    from .bench import pipeline_facts

    if model.bundle is None:
        return {}, None
    fields, bar = benchmark.drawing_fields(plan.drawing.changes), ProgressLine()
    rewriting = plan.drawing.rewriting
    with open_pipeline(model.bundle, *plan.drawing.engine) as pipeline:
        if rewriting is not None:
            samples = rewritten_samples(rewriting, pipeline, samples, plan.out / model.name, bar.show)
        problems = draw_samples(pipeline, samples, fields, plan.out / model.name, bar.show, note)
        facts = pipeline_facts(pipeline)
    bar.end()
    shown = {name: repr(value) if name == "cache" else value for name, value in fields.items()}
    shown |= {} if rewriting is None else {"rewriter": rewriting.writer}
    return problems, {**shown, "backend": facts["backend"], "precision": facts["precision"], "bundle": base_name(model.bundle)}


def _judge(options: JudgeOptions, benchmark: Benchmark, out: Path) -> Judge:
    """The judge. Reads the key from the environment."""
    from ..evaluation.answer_cache import AnswerCache
    from ..evaluation.judging import Judge
    from ..evaluation.results import ANSWERS
    from ..evaluation.rubrics import read_rubrics, shipped_rubrics

    model = options.model or benchmark.judge
    grades = benchmark.grades
    rubrics = (
        shipped_rubrics(benchmark.name, grades)
        if options.rubric is None
        else read_rubrics(options.rubric, grades, benchmark.text_form)
    )
    return Judge(
        asker=noting_client("--judge", options.url, model, options.key_variable, timeout_s=options.timeout_s),
        model=model,
        cache=AnswerCache(out / ANSWERS),
        rubrics=rubrics,
        max_tokens=benchmark.judge_tokens if options.max_tokens is None else options.max_tokens,
        **options.fields,
    )


def _say_drawn(models: Sequence[Model], samples: Sequence[Sample], problems: Sequence[Mapping[str, str]]) -> None:
    """Say what was drawn. Raises OmniGen2Error where something wasn't."""
    broken = [sample for sample in samples if sample.problem is not None]
    for sample in broken[:20]:
        note(f"{sample.name}: {sample.problem}")
    for model, each in zip(models, problems, strict=True):
        for name, problem in [*each.items()][:20]:
            note(f"{name}: {problem}")
        typer.echo(f"{model.name}: {len(samples) - len(broken) - len(each)} of {len(samples)} pictures are there")
    if broken or any(problems):
        raise OmniGen2Error("samples could not be drawn; the notes say why")
    typer.echo("the same command with --judge URL scores them")


def _judge_models(
    plan: Plan,
    benchmark: Benchmark,
    judge: Judge,
    samples: Sequence[Sample],
    drawn: Sequence[tuple[Model, tuple[dict[str, str], dict[str, Any] | None]]],
    write: Write,
) -> None:
    from ..evaluation.endpoint import EndpointError
    from ..evaluation.results import REPORT, average_facts
    from ..evaluation.run import compare_models, judge_folder, judge_model

    bar = ProgressLine()
    outcomes: list[Outcome] = []
    host = "" if plan.judge is None else endpoint_host(plan.judge.url)
    for model, (problems, drawing) in drawn:
        try:
            outcome = judge_model(
                benchmark,
                samples,
                plan.out / model.name,
                judge,
                language=plan.language,
                problems=problems,
                drawing=drawing,
                allow_incomplete=plan.allow_incomplete,
                progress=bar.show,
            )
        except EndpointError as error:
            raise OmniGen2Error(f"--judge {host}: {error}") from error
        outcomes.append(outcome)
        bar.end()
    facts: dict[str, Any] = {each.name: average_facts(each.averages) for each in outcomes}
    page = outcomes[0].folder / judge_folder(judge, plan.language) / REPORT
    for outcome in outcomes:
        say_lines(outcome_text(outcome))
    if len(outcomes) == 2:
        ours, theirs = outcomes
        difference = compare_models(
            benchmark, ours, theirs, judge, language=plan.language, allow_incomplete=plan.allow_incomplete
        )
        facts["difference"] = average_facts(difference)
        say_lines(score_table(f"{ours.name} minus {theirs.name}", difference, signed=True))
        say_lines(verdict_line(ours.name, theirs.name, [*difference.values()][-1]))
        page = page.with_name(f"against-{theirs.name}.html")
    write({"benchmark": benchmark.name, "judge": judge.model, **facts})
    typer.echo(f"page: {page}")
    _check_complete(outcomes, plan.allow_incomplete)


def _check_complete(outcomes: Sequence[Outcome], allow_incomplete: bool) -> None:
    """Raises OmniGen2Error where samples or answers are missing."""
    missing = [each for each in outcomes if each.completeness.unscored or each.completeness.missing_answers]
    if missing and not allow_incomplete:
        gaps = missing[0].completeness
        raise OmniGen2Error(
            f"{missing[0].name}: {gaps.unscored} of {gaps.samples} samples have no score, {gaps.missing_answers} answers are "
            "missing; the page says why. --ask-again asks anew, --allow-incomplete averages the rest"
        )
    if any(not each.completeness.is_whole for each in outcomes) and not allow_incomplete:
        note("no average is given, because this is not the whole published set; --allow-incomplete gives one")
