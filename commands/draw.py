"""`omnigen2 generate` and `demo`: pictures from words and from other pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtime.parameters import drawing_parameters
from ..runtime.request import Request, Result
from .best_of import best_of_choice
from .doubts import note_doubts
from .endpoint_options import KEY, JudgeKey, JudgeModel, JudgeURL, Rubric
from .option_values import cache_policy, numbers, picture_names, read_latents
from .options import (
    DEFAULTS,
    Backend,
    BundleName,
    Height,
    LoraFolder,
    Loras,
    MemoryLimit,
    Precision,
    Threads,
    Width,
    open_pipeline,
)
from .rewriting_options import RewriterKey, RewriterModel, RewriterURL, Rewrites, RewriteTemplate, rewrite_plan
from .terminal import ProgressLine, note

if TYPE_CHECKING:
    from ..rewriting.plan import RewritePlan
    from ..runtime.pipeline import Pipeline


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw, or how to change the images.")],
    bundle: BundleName = "nano",
    image: Annotated[list[Path] | None, typer.Option(help="An input image; may be repeated.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What to steer away from.")] = DEFAULTS["negative_prompt"],
    height: Height = None,
    width: Width = None,
    steps: Annotated[int, typer.Option(help="Model evaluations along the way.")] = DEFAULTS["steps"],
    text_guidance: Annotated[float, typer.Option(help="1 turns it off.")] = DEFAULTS["text_guidance"],
    image_guidance: Annotated[float, typer.Option(help="1.2-2 for editing.")] = DEFAULTS["image_guidance"],
    cfg_range: Annotated[
        tuple[float, float], typer.Option(help="The guided part of the steps: two numbers from 0 to 1, e.g. 0 0.6.")
    ] = DEFAULTS["cfg_range"],
    scheduler: Annotated[str, typer.Option(help="euler or dpmsolver++.")] = DEFAULTS["scheduler"],
    timesteps: Annotated[str | None, typer.Option(help="Times to use instead, e.g. 0,0.3,0.6.")] = None,
    count: Annotated[int, typer.Option(help="Pictures drawn together.")] = DEFAULTS["images_per_prompt"],
    seed: Annotated[int, typer.Option(help="Where the noise comes from.")] = DEFAULTS["seed"],
    latents: Annotated[Path | None, typer.Option(help="A .npy file of noise to start from, (B, C, h, w).")] = None,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longer prompts are cut.")] = DEFAULTS["max_prompt_tokens"],
    max_pixels: Annotated[int, typer.Option(help="The largest area drawn.")] = DEFAULTS["max_pixels"],
    max_input_side: Annotated[int, typer.Option(help="Pixels of an input.")] = DEFAULTS["max_input_side_px"],
    align_size: Annotated[
        bool | None, typer.Option(help="Take a single input image's size; by default where none is given.")
    ] = DEFAULTS["align_size"],
    cache: Annotated[str | None, typer.Option(help="teacache or taylorseer: faster, a little different.")] = None,
    tea_threshold: Annotated[float | None, typer.Option(help="TeaCache: higher skips more.")] = None,
    out: Annotated[Path, typer.Option(help="The picture's file; with several, -0, -1, … is added.")] = Path("out.png"),
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    lora: Loras = None,
    lora_dir: LoraFolder = None,
    rewrite: Rewrites = False,
    rewriter: RewriterURL = None,
    rewriter_model: RewriterModel = None,
    rewriter_key: RewriterKey = KEY,
    rewrite_template: RewriteTemplate = None,
    best_of: Annotated[int | None, typer.Option(help="With --judge: draw so many seeds, keep the best.")] = None,
    judge: JudgeURL = None,
    judge_model: JudgeModel = None,
    judge_key: JudgeKey = KEY,
    rubric: Rubric = None,
) -> None:
    """Draw a picture from words, edit one, or combine several."""
    from .output import Picture, save_all

    request = Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        images=image or (),
        height_px=height,
        width_px=width,
        steps=steps,
        text_guidance=text_guidance,
        image_guidance=image_guidance,
        cfg_range=cfg_range,
        scheduler=scheduler,
        timesteps=None if timesteps is None else numbers("--timesteps", timesteps),
        images_per_prompt=count,
        seed=seed,
        latents=None if latents is None else read_latents(latents),
        max_prompt_tokens=max_prompt_tokens,
        max_pixels=max_pixels,
        max_input_side_px=max_input_side,
        align_size=align_size,
        cache=cache_policy(cache, tea_threshold),
    )
    names = picture_names(out, count)
    plan = rewrite_plan(rewrite, rewriter, rewriter_model, rewriter_key, rewrite_template)
    choice = best_of_choice(best_of, judge, judge_model, judge_key, rubric, request, out)
    with open_pipeline(bundle, backend, precision, threads, memory_limit, lora, lora_dir) as pipeline:
        drawn, rewritten = _rewritten(request, plan, pipeline)
        noise = None if latents is None else str(latents)
        parameters = {**drawing_parameters(drawn, latents=noise, bundle=bundle, pipeline=pipeline), **rewritten}
        if choice is not None:
            choice.run(drawn, lambda each, what: _candidate(pipeline, each, what, drawn.seed), parameters, typer.echo)
            return
        result = _generate(pipeline, drawn, "drawing")
        _note_limits(pipeline, result)
    pictures = [Picture(image=image, parameters={**parameters, "index": k}) for k, image in enumerate(result.images)]
    save_all(zip(pictures, names, strict=True), lambda name: typer.echo(str(name)))


def _generate(pipeline: Pipeline, request: Request, what: str) -> Result:
    """Draw with a line of progress."""
    bar = ProgressLine()
    total = request.steps if request.timesteps is None else len(request.timesteps)
    try:
        return pipeline.generate(request, on_step=lambda step: bar.show(step.index + 1, total, what))
    finally:
        bar.end()


def _candidate(pipeline: Pipeline, request: Request, what: str, first_seed: int) -> Result:
    """Draw one of several seeds; all read the same words, so only the first one has notes."""
    result = _generate(pipeline, request, what)
    if request.seed == first_seed:
        _note_limits(pipeline, result)
    return result


def _note_limits(pipeline: Pipeline, result: Result) -> None:
    """Print notes on what the model wasn't trained for and on what it didn't read."""
    note_doubts(pipeline, result.request.prompt, result.images)
    for field, tokens in result.cut_tokens.items():
        limit = f"--max-prompt-tokens {result.request.max_prompt_tokens}"
        note(f"the last {tokens} tokens of the {field} were not read; {limit} are")


def _rewritten(request: Request, plan: RewritePlan | None, pipeline: Pipeline) -> tuple[Request, dict[str, Any]]:
    """The request with its prompt rewritten, if a plan is given, and what its parameters say about that."""
    if plan is None:
        return request, {}
    done = plan.open(pipeline, on_wait=note).rewrite(request.prompt, len(request.images))
    note(done.note)
    return replace(request, prompt=done.prompt), done.parameters


def demo(
    out: Annotated[Path, typer.Option(help="The contact sheet's file.")] = Path("demo.png"),
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Let the model that ships draw, edit and combine, and put the pictures on one contact sheet."""
    from ..nano.demo import demonstrate
    from .output import Picture, save_all

    picture_names(out, 1)
    with open_pipeline("nano", backend, precision, threads, None) as pipeline:
        bar = ProgressLine()
        sheet = demonstrate(pipeline, bar.show)
        bar.end()
    save_all([(Picture(image=sheet), out)], lambda name: typer.echo(str(name)))
