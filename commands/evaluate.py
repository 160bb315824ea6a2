"""`omnigen2 eval`: nano on its own world, and benchmarks that a judge or the user's detector scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ..runtime.errors import OmniGen2Error
from .endpoint_options import KEY, JudgeKey, Rubric
from .option_values import cache_policy
from .options import Backend, BundleName, JsonFile, MemoryLimit, Precision, Threads, open_pipeline
from .rewriting_options import RewriterKey, RewriterModel, RewriterURL, Rewrites, RewriteTemplate, rewrite_plan
from .terminal import ProgressLine, check_json_file, say_lines, write_json

app = typer.Typer(help="Score what a model does: nano's world, OmniContext, GEdit, ImgEdit, GenEval.")

JUDGED = {
    "omnicontext": "Draw OmniContext's samples and let a judge score them: prompt following and subject consistency.",
    "gedit": "Draw GEdit's edits and let a judge score them: semantic consistency and perceptual quality.",
    "imgedit": "Draw ImgEdit's edits and let a judge score them, from 1 to 5.",
}

Only = Annotated[str, typer.Option("--subtasks", help="Only these, separated by commas; all by default.")]


@app.command("nano")
def nano(
    bundle: BundleName = "nano",
    abilities: Annotated[str, typer.Option(help="Only these, separated by commas; all by default.")] = "",
    samples: Annotated[int | None, typer.Option(help="Of each ability; 200 by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps a drawing; 20 by default.")] = None,
    text_guidance: Annotated[float | None, typer.Option(help="Instead of nano's own.")] = None,
    image_guidance: Annotated[float | None, typer.Option(help="Instead of nano's own, where there are images.")] = None,
    cache: Annotated[str | None, typer.Option(help="teacache or taylorseer.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    json_file: JsonFile = None,
) -> None:
    """Score nano, or a bundle of its world: draw, edit, combine, look, decide, reflect; exit code 1 below what is needed."""
    from ..nano.abilities import chosen_abilities
    from ..nano.evaluation import Settings, to_json
    from ..nano.evaluation import evaluate as examine
    from ..nano.scores import table
    from .bench import pipeline_facts

    check_json_file(json_file)
    options: dict[str, Any] = {"samples": samples, "steps": steps}
    options |= {"text_guidance": text_guidance, "image_guidance": image_guidance, "cache": cache_policy(cache, None)}
    settings = Settings(**{name: value for name, value in options.items() if value is not None})
    chosen = chosen_abilities(names_of(abilities))
    with open_pipeline(bundle, backend, precision, threads, memory_limit) as pipeline:
        bar = ProgressLine()
        scores = examine(pipeline, settings, chosen, bar.show)
        bar.end()
        say_lines(table(scores))
        write_json(json_file, to_json(scores, settings, pipeline_facts(pipeline)))
    if missed := [score.title for score in scores if not score.is_reached]:
        raise OmniGen2Error(f"below what is needed: {'; '.join(missed)}")


def judged_command(benchmark: str) -> Callable[..., None]:
    """The command of a benchmark that a judge scores: all of them have the same options."""

    def evaluate(
        data: Annotated[Path, typer.Argument(help="The benchmark's folder or file: parquet, JSONL or JSON.")],
        bundle: Annotated[str | None, typer.Option(help="The bundle's folder, or nano; required unless --no-draw.")] = None,
        against: Annotated[str | None, typer.Option(help="Another bundle to draw with and compare with.")] = None,
        against_run: Annotated[str | None, typer.Option(help="Instead: the --name of an earlier run in --out.")] = None,
        out: Annotated[Path, typer.Option(help="The folder of pictures, answers and scores.")] = Path("results"),
        name: Annotated[str | None, typer.Option(help="Names the results; by default as the bundle.")] = None,
        against_name: Annotated[str | None, typer.Option(help="Names the other bundle's results; by default as it.")] = None,
        judge: Annotated[str | None, typer.Option(help="The judge's endpoint: https://host/v1. Without it: only draw.")] = None,
        judge_model: Annotated[str | None, typer.Option(help="The judge's model there; by default the published one.")] = None,
        judge_key: JudgeKey = KEY,
        judge_tokens: Annotated[int | None, typer.Option(help="The limit of an answer.")] = None,
        judge_temperature: Annotated[float | None, typer.Option(help="By default the endpoint decides.")] = None,
        judge_seed: Annotated[int | None, typer.Option(help="By default the endpoint's; grows by one each judging.")] = None,
        judge_timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 180.0,
        judgings: Annotated[int, typer.Option(help="How often each question is asked.")] = 1,
        parallel: Annotated[int, typer.Option(help="Questions at a time.")] = 4,
        rubric: Rubric = None,
        ask_again: Annotated[bool, typer.Option("--ask-again", help="Ask anew where a kept answer can't be read.")] = False,
        allow_incomplete: Annotated[
            bool, typer.Option("--allow-incomplete", help="Average what there is, though samples or answers are missing.")
        ] = False,
        no_draw: Annotated[bool, typer.Option("--no-draw", help="Score the pictures of --name as they lie in --out.")] = False,
        subtasks: Only = "",
        samples: Annotated[int | None, typer.Option(help="At most so many of each subtask.")] = None,
        language: Annotated[str, typer.Option(help="Of the instructions.")] = "en",
        size: Annotated[int | None, typer.Option(help="Height and width of the pictures, in pixels.")] = None,
        steps: Annotated[int | None, typer.Option(help="Steps a drawing.")] = None,
        text_guidance: Annotated[float | None, typer.Option(help="Instead of the published.")] = None,
        image_guidance: Annotated[float | None, typer.Option(help="Instead of the published.")] = None,
        negative_prompt: Annotated[str | None, typer.Option(help="Instead of the published.")] = None,
        seed: Annotated[int | None, typer.Option(help="Of each drawing; 0 by default.")] = None,
        cache: Annotated[str | None, typer.Option(help="teacache or taylorseer.")] = None,
        rewrite: Rewrites = False,
        rewriter: RewriterURL = None,
        rewriter_model: RewriterModel = None,
        rewriter_key: RewriterKey = KEY,
        rewrite_template: RewriteTemplate = None,
        backend: Backend = "auto",
        precision: Precision = "auto",
        threads: Threads = None,
        memory_limit: MemoryLimit = None,
        json_file: JsonFile = None,
    ) -> None:
        from .judged import DrawingOptions, JudgeOptions, Plan, run

        check_json_file(json_file)
        if json_file is not None and judge is None:
            raise OmniGen2Error("--json needs --judge URL: without a judge there are no scores")
        if size is not None and benchmark != "omnicontext":
            raise OmniGen2Error(f"--size has no effect on {benchmark}, whose pictures take the size of their input")
        changes = {
            "height_px": size,
            "width_px": size,
            "steps": steps,
            "text_guidance": text_guidance,
            "image_guidance": image_guidance,
            "negative_prompt": negative_prompt,
            "seed": seed,
            "cache": cache_policy(cache, None),
        }
        plan = Plan(
            benchmark=benchmark,
            data=data,
            out=out,
            language=language,
            subtasks=names_of(subtasks),
            samples=samples,
            allow_incomplete=allow_incomplete,
            drawing=DrawingOptions(
                bundle=bundle,
                against=against,
                against_run=against_run,
                name=name,
                against_name=against_name,
                is_done=no_draw,
                changes={field: value for field, value in changes.items() if value is not None},
                engine=(backend, precision, threads, memory_limit),
                rewriting=rewrite_plan(rewrite, rewriter, rewriter_model, rewriter_key, rewrite_template),
            ),
            judge=None
            if judge is None
            else JudgeOptions(
                url=judge,
                model=judge_model,
                key_variable=judge_key,
                timeout_s=judge_timeout,
                rubric=rubric,
                max_tokens=judge_tokens,
                fields={
                    "judgings": judgings,
                    "threads": parallel,
                    "asks_again": ask_again,
                    "temperature": judge_temperature,
                    "seed": judge_seed,
                },
            ),
        )
        run(plan, lambda facts: write_json(json_file, facts))

    return evaluate


for _name, _help in JUDGED.items():
    app.command(_name, help=_help)(judged_command(_name))


@app.command("geneval")
def geneval(
    detections: Annotated[Path, typer.Argument(help="The detections in each picture, JSONL.")],
    against: Annotated[Path | None, typer.Option(help="Another model's detections to compare with.")] = None,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Average what there is, though pictures or detections are missing.")
    ] = False,
    json_file: JsonFile = None,
) -> None:
    """Score GenEval from detections that you supply: the detector isn't part of this package."""
    from .detected import score_detections

    check_json_file(json_file)
    score_detections(detections, against, allow_incomplete, lambda facts: write_json(json_file, facts))


def names_of(text: str) -> list[str]:
    """The names in a text, separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
