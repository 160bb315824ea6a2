"""The `omnigen2` command: each command is one call into a folder below, imported when the command runs.

Knows how people type and read; every default of a drawing is `Request`'s own.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .runtime.arguments import cache_policy, memory_bytes, numbers, picture_names, read_latents
from .runtime.errors import OmniGen2Error
from .runtime.request import Request
from .runtime.terminal import ProgressLine, fact_lines, write_json

if TYPE_CHECKING:
    from .runtime.pipeline import Pipeline

app = typer.Typer(
    help="OmniGen2 without PyTorch: export a checkpoint, then draw, edit and measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
STOPPED = 130
DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Request)}

Backend = Annotated[str, typer.Option(help="auto, or a backend that `omnigen2 doctor` lists.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
Height = Annotated[int | None, typer.Option(help="Pixels of a picture; by default the model's own size.")]
Width = Annotated[int | None, typer.Option(help="Likewise.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default the engine decides.")]
MemoryLimit = Annotated[str | None, typer.Option(help="Keep open weights below this, e.g. 4GB; slower.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint's folder, or a Hugging Face id.")],
    bundle: Annotated[Path, typer.Argument(help="The folder to make.")],
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16 or bf16; may be repeated.")] = None,
    lora: Annotated[Path | None, typer.Option(help="A LoRA file (or folder) to merge.")] = None,
    lora_scale: Annotated[float | None, typer.Option(help="How strongly the LoRA counts; 1 by default.")] = None,
    materialize: Annotated[bool, typer.Option(help="Also write the weights converted to each precision.")] = False,
    force: Annotated[bool, typer.Option(help="Replace an existing bundle.")] = False,
) -> None:
    """Export a checkpoint to a bundle: graphs beside hard links to the checkpoint's own weights."""
    needs_extra("export", "torch", "onnx", "onnxscript", "safetensors")
    from .exporter.export import DEFAULT_PRECISIONS, Lora, export_bundle

    if lora is None and lora_scale is not None:
        raise OmniGen2Error("--lora-scale belongs to --lora")
    bar = ProgressLine()
    report = export_bundle(
        checkpoint,
        bundle,
        precisions=precision or DEFAULT_PRECISIONS,
        lora=None if lora is None else Lora(path=lora, scale=1.0 if lora_scale is None else lora_scale),
        materialized=materialize,
        force=force,
        progress=lambda what, done, total: bar.show(done, total, what),
    )
    bar.end()
    resumed = f", {report.resumed_graphs} of them from an earlier run" if report.resumed_graphs else ""
    typer.echo(f"{report.bundle}: {report.graphs} graphs{resumed}, {report.seconds:.0f} s")
    if report.copied:
        typer.echo(f"copied, because another filesystem allows no link: {', '.join(report.copied)}")


@app.command()
def compare(
    checkpoint: Annotated[str, typer.Argument(help="The checkpoint that the bundle was exported from.")],
    bundle: Annotated[Path, typer.Argument(help="The bundle.")],
    backend: Backend = "auto",
    precision: Precision = "auto",
    steps: Annotated[int, typer.Option(help="Steps of the whole drawings that are compared.")] = 4,
    size: Annotated[int, typer.Option(help="Their height and width in pixels.")] = 64,
    json_file: JsonFile = None,
) -> None:
    """Put each component and whole drawings beside the PyTorch reference; exit code 1 beyond tolerance."""
    needs_extra("export", "torch", "onnx", "onnxscript", "safetensors")
    from .exporter.compare import compare as run_comparison

    bar = ProgressLine()
    report = run_comparison(
        checkpoint,
        bundle,
        backend=backend,
        precision=precision,
        steps=steps,
        height_px=size,
        width_px=size,
        progress=lambda what, done, total: bar.show(done, total, what),
    )
    bar.end()
    typer.echo(report.table())
    write_json(json_file, json.loads(report.to_json()))
    if not report.within_tolerance:
        raise typer.Exit(1)


@app.command()
def quantize(
    bundle: Annotated[str, typer.Argument(help="The bundle's folder, or nano.")],
    target: Annotated[Path, typer.Argument(help="The folder to make.")],
    scheme: Annotated[str, typer.Option(help="int8-weights, int4-weights or int8.")],
    prompts: Annotated[Path | None, typer.Option(help="A text file, a prompt a line, to draw for a look at activations.")] = None,
    size: Annotated[int | None, typer.Option(help="Height and width of what is drawn; 256 at most by default.")] = None,
    threads: Threads = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Keep open weights below this, e.g. 4GB; half the memory if they take more.")
    ] = None,
) -> None:
    """Make a smaller bundle, its fp32 graphs with 8- or 4-bit weights, and say what that costs."""
    needs_extra("export", "onnx", "onnx_ir")
    from .exporter.calibration import calibration_of, read_prompts
    from .exporter.quantize import quantize_bundle
    from .nano.evaluation import drawn_rightly, knows_this_world
    from .runtime.bundle import Bundle
    from .runtime.pipeline import bundle_path

    folder = bundle_path(bundle)
    before = Bundle.open(folder)
    calibration = calibration_of(
        before,
        prompts=None if prompts is None else read_prompts(prompts),
        size_px=size,
        threads=threads,
        memory_limit_bytes=memory_bytes(memory_limit),
    )
    bar = ProgressLine()
    report = quantize_bundle(
        folder,
        target,
        scheme,
        calibration=calibration,
        score=drawn_rightly if knows_this_world(before) else None,
        progress=lambda what, done, total: bar.show(done, total, what),
    )
    bar.end()
    typer.echo(report.table())
    typer.echo(str(target))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def build(context: typer.Context) -> None:
    """Build TensorRT engines from a bundle (--dry-run, --list, --prune); see `build --help`."""
    needs_extra("export", "onnx")
    from .exporter.build_command import build as build_bundle

    # Its options and their defaults stand beside the builder, which must not be imported for any other command.
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    command.command()(build_bundle)
    command(context.args, prog_name="omnigen2 build", standalone_mode=False)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw, or how to change the images.")],
    bundle: Annotated[str, typer.Option(help="The bundle's folder.")] = "nano",
    image: Annotated[list[Path] | None, typer.Option(help="An input image; may be repeated.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What to steer away from.")] = DEFAULTS["negative_prompt"],
    height: Height = None,
    width: Width = None,
    steps: Annotated[int, typer.Option(help="Model evaluations along the way.")] = DEFAULTS["steps"],
    text_guidance: Annotated[float, typer.Option(help="1 turns it off.")] = DEFAULTS["text_guidance"],
    image_guidance: Annotated[float, typer.Option(help="1.2-2 for editing.")] = DEFAULTS["image_guidance"],
    cfg_range: Annotated[tuple[float, float], typer.Option(help="The guided part of the steps.")] = DEFAULTS[
        "cfg_range"
    ],
    scheduler: Annotated[str, typer.Option(help="euler or dpmsolver++.")] = DEFAULTS["scheduler"],
    timesteps: Annotated[str | None, typer.Option(help="Times to use instead, e.g. 0,0.3,0.6.")] = None,
    count: Annotated[int, typer.Option(help="Pictures drawn together.")] = DEFAULTS["images_per_prompt"],
    seed: Annotated[int, typer.Option(help="Where the noise comes from.")] = DEFAULTS["seed"],
    latents: Annotated[Path | None, typer.Option(help="A .npy file of noise to start from, (B, C, h, w).")] = None,
    max_prompt_tokens: Annotated[int, typer.Option(help="Longer prompts are cut.")] = DEFAULTS["max_prompt_tokens"],
    max_pixels: Annotated[int, typer.Option(help="The largest area drawn.")] = DEFAULTS["max_pixels"],
    max_input_side: Annotated[int, typer.Option(help="Pixels of an input.")] = DEFAULTS["max_input_side_px"],
    align_size: Annotated[bool, typer.Option(help="Take a single input image's size.")] = DEFAULTS["align_size"],
    cache: Annotated[str | None, typer.Option(help="teacache or taylorseer: faster, a little different.")] = None,
    tea_threshold: Annotated[float | None, typer.Option(help="TeaCache: higher skips more.")] = None,
    out: Annotated[Path, typer.Option(help="The picture's file; with several, -0, -1, … is added.")] = Path("out.png"),
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Draw a picture from words, edit one, or combine several."""
    from .runtime.png import save_png

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
    with opened(bundle, backend, precision, threads, memory_limit) as pipeline:
        bar = ProgressLine()
        total = steps if request.timesteps is None else len(request.timesteps)
        result = pipeline.generate(request, on_step=lambda step: bar.show(step.index + 1, total, "drawing"))
        bar.end()
        drawn = {**parameters(request), "bundle": Path(bundle).name, **engine(pipeline)}
    for index, (picture, name) in enumerate(zip(result.images, names, strict=True)):
        save_png(picture, name, {**drawn, "index": index})
        typer.echo(str(name))


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The sheet's file.")] = Path("demo.png"),
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Let the model that ships draw, edit and combine, and put what it made on one sheet."""
    from .nano.demo import demonstrate
    from .runtime.png import save_png

    picture_names(out, 1)
    with opened("nano", backend, precision, threads, None) as pipeline:
        bar = ProgressLine()
        sheet = demonstrate(pipeline, bar.show)
        bar.end()
    save_png(sheet, out, {})
    typer.echo(str(out))


@app.command()
def info(
    file: Annotated[Path, typer.Argument(help="A picture made here, a bundle or a checkpoint.")],
    verify: Annotated[bool, typer.Option(help="Bundle: hash every byte of its weights.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a picture was drawn with, or what a bundle or a checkpoint holds."""
    from .runtime.describe import describe

    show(describe(file, verify=verify), as_json)


@app.command()
def doctor(
    bundle: Annotated[Path | None, typer.Argument(help="Also say what drawing with this bundle takes.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    memory_limit: MemoryLimit = None,
    steps: Annotated[int, typer.Option(help="Steps of that drawing.")] = DEFAULTS["steps"],
    as_json: AsJson = False,
) -> None:
    """Say what is installed, which backends work here, and why the others don't; and what a bundle takes of memory."""
    from .runtime.describe import diagnose, memory

    facts = diagnose()
    if bundle is not None:
        facts["memory"] = memory(bundle, backend, precision, memory_bytes(memory_limit), steps)
    show(facts, as_json)


@app.command()
def bench(
    bundle: Annotated[str, typer.Argument(help="The bundle's folder, or nano.")],
    size: Annotated[int, typer.Option(help="Height and width of picture and references, in pixels.")] = 1024,
    steps: Annotated[int, typer.Option(help="Steps a drawing.")] = DEFAULTS["steps"],
    repeat: Annotated[int, typer.Option(help="Drawings a case; the median is shown.")] = 1,
    references: Annotated[int, typer.Option(help="Measure up to this many input images.")] = 3,
    cache: Annotated[str | None, typer.Option(help="teacache or taylorseer.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    every: Annotated[bool, typer.Option("--all", help="Instead: one picture in every way that works here.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Measure the original's efficiency table: 0 to 3 input images, guidance throughout or on the first 60 %."""
    from .runtime.bench import measure, opened_line, table, to_json

    if every:
        if backend != "auto" or precision != "auto" or cache is not None or memory_limit is not None:
            raise OmniGen2Error("--all takes every backend, precision and cache: leave those options and --memory-limit out")
        bench_ways(bundle, size, steps, repeat, threads, json_file)
        return
    with opened(bundle, backend, precision, threads, memory_limit) as pipeline:
        bar = ProgressLine()
        cases = measure(
            pipeline,
            size_px=size,
            steps=steps,
            repeat=repeat,
            references=references,
            cache=cache_policy(cache, None),
            progress=bar.show,
        )
        bar.end()
        typer.echo(table(cases))
        typer.echo(opened_line(pipeline))
        write_json(json_file, to_json(pipeline, cases))


@app.command("eval")
def evaluate(
    world: Annotated[str, typer.Argument(help="nano, whose pictures can be judged without a network.")],
    bundle: Annotated[str, typer.Option(help="The bundle's folder.")] = "nano",
    abilities: Annotated[str, typer.Option(help="Only these, separated by commas; all by default.")] = "",
    samples: Annotated[int | None, typer.Option(help="Of each ability; 200 by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps a drawing; 20 by default.")] = None,
    text_guidance: Annotated[float | None, typer.Option(help="Instead of nano's own.")] = None,
    image_guidance: Annotated[float | None, typer.Option(help="Likewise, where there are input images.")] = None,
    cache: Annotated[str | None, typer.Option(help="teacache or taylorseer.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    json_file: JsonFile = None,
) -> None:
    """Score what a model does: draw, edit, combine, look, decide, reflect; exit code 1 below what is needed."""
    from .nano.evaluation import Settings, chosen_abilities, facts_of, to_json
    from .nano.evaluation import evaluate as examine
    from .nano.scores import table

    if world != "nano":
        raise OmniGen2Error(f"eval {world!r} is unknown; the only world that can be scored is nano")
    given: dict[str, Any] = {"samples": samples, "steps": steps}
    given |= {"text_guidance": text_guidance, "image_guidance": image_guidance, "cache": cache_policy(cache, None)}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    chosen = chosen_abilities([name.strip() for name in abilities.split(",") if name.strip()])
    with opened(bundle, backend, precision, threads, memory_limit) as pipeline:
        bar = ProgressLine()
        scores = examine(pipeline, settings, chosen, bar.show)
        bar.end()
        typer.echo(table(scores))
        write_json(json_file, to_json(scores, settings, facts_of(pipeline)))
    if not all(score.is_reached for score in scores):
        raise typer.Exit(1)


@app.command()
def chat(
    prompt: Annotated[str | None, typer.Argument(help="Ask this and end; without it, a conversation.")] = None,
    bundle: Annotated[str, typer.Option(help="The bundle's folder.")] = "nano",
    image: Annotated[list[Path] | None, typer.Option(help="A picture to show with the prompt; may be repeated.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer.")] = 256,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; by default the checkpoint's own.")] = None,
    height: Height = None,
    width: Width = None,
    steps: Annotated[int, typer.Option(help="Model evaluations for a picture.")] = DEFAULTS["steps"],
    seed: Annotated[int, typer.Option(help="Where the noise and the choice of words come from.")] = DEFAULTS["seed"],
    out: Annotated[Path, typer.Option(help="The folder for pictures that are made.")] = Path(),
    as_json: AsJson = False,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Talk with the model: ask about pictures, or for pictures."""
    from .runtime.terminal_chat import answer_as_json, converse, drawing, line_reader, save_pictures

    request = Request(prompt="", height_px=height, width_px=width, steps=steps, seed=seed)
    if not out.is_dir():
        raise OmniGen2Error(f"--out {str(out)!r} is not a folder: make it first")
    if prompt is None and as_json:
        raise OmniGen2Error("--json needs a prompt: it prints one answer")
    settings: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    with opened(bundle, backend, precision, threads, memory_limit) as pipeline:
        if prompt is None:
            converse(pipeline.start_chat, request, out, line_reader(), say, settings, image or ())
            return
        on_token = None if as_json else say
        bar = ProgressLine()
        settings["on_step"] = drawing(bar, request)
        answer = pipeline.chat(prompt, image or (), request=request, on_token=on_token, **settings)
        bar.end()
    files = save_pictures(answer, out)
    if as_json:
        show(answer_as_json(answer, files), as_json)
    else:
        typer.echo("\n".join([*([""] if answer.text else []), *map(str, files)]))


@app.command()
def reflect(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    bundle: Annotated[str, typer.Option(help="The bundle's folder.")] = "nano",
    rounds: Annotated[int, typer.Option(help="Corrections at most.")] = 2,
    height: Height = None,
    width: Width = None,
    steps: Annotated[int, typer.Option(help="Model evaluations for a picture.")] = DEFAULTS["steps"],
    seed: Annotated[int, typer.Option(help="Where the noise comes from.")] = DEFAULTS["seed"],
    out: Annotated[Path, typer.Option(help="The best picture's file; the rounds and a sheet lie beside it.")] = Path("out.png"),
    as_json: AsJson = False,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
) -> None:
    """Draw, look at the picture, correct it, and keep the best."""
    from .runtime.terminal_chat import drawing, rounds_as_json, save_rounds

    request = Request(prompt=prompt, height_px=height, width_px=width, steps=steps, seed=seed)
    picture_names(out, 1)
    with opened(bundle, backend, precision, threads, memory_limit) as pipeline:
        bar = ProgressLine()
        reflection = pipeline.reflect(request, rounds, on_step=drawing(bar, request))
        bar.end()
    files = [str(file) for file in save_rounds(reflection, out)]
    told = {f"round {number}": said for number, said in enumerate(rounds_as_json(reflection))}
    show({"files": files, "rounds": rounds_as_json(reflection)} if as_json else {"files": ", ".join(files), **told}, as_json)


def bench_ways(bundle: str, size: int, steps: int, repeat: int, threads: int | None, json_file: Path | None) -> None:
    """What `bench --all` does. Pictures of nano, as it is or quantized, are judged as well."""
    from .nano.evaluation import drawn_rightly, knows_this_world
    from .runtime.bench_ways import measure_ways, ways_json, ways_table
    from .runtime.bundle import Bundle
    from .runtime.pipeline import bundle_path

    bar = ProgressLine()
    measured = measure_ways(
        bundle,
        size_px=size,
        steps=steps,
        repeat=repeat,
        threads=threads,
        score=drawn_rightly if knows_this_world(Bundle.open(bundle_path(bundle))) else None,
        progress=bar.show,
    )
    bar.end()
    typer.echo(ways_table(measured))
    write_json(json_file, ways_json(bundle, measured))


def opened(
    bundle: str | Path, backend: str, precision: str, threads: int | None, memory_limit: str | None
) -> Pipeline:
    """The pipeline that a command works with. Raises as `load` does."""
    from .runtime.pipeline import load

    limit = memory_bytes(memory_limit)
    return load(bundle, backend=backend, precision=precision, threads=threads, memory_limit_bytes=limit)


def engine(pipeline: Any) -> dict[str, str]:
    """Which engine draws, for the picture's file: another one rounds differently."""
    return {"backend": pipeline.backend.name, "precision": pipeline.backend.precision}


def parameters(request: Request) -> dict[str, Any]:
    """What a picture's file says of how it was drawn: enough to draw it again."""
    stated = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    stated["images"] = [str(image) for image in stated["images"]]
    stated["latents"] = None if request.latents is None else "given"
    if request.cache is not None:
        stated["cache"] = repr(request.cache)
    return stated


def needs_extra(extra: str, *modules: str) -> None:
    """Raises OmniGen2Error unless the modules of an install extra are there."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise OmniGen2Error(f'this needs {", ".join(missing)}: pip install "omnigen2-rt[{extra}]"')


def say(text: str) -> None:
    """Print a piece of an answer as it comes."""
    typer.echo(text, nl=False)


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print nested facts as JSON or as indented lines."""
    typer.echo(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else "\n".join(fact_lines(facts)))


def print_version(wanted: bool) -> None:
    """Answer `--version` and end."""
    from importlib.metadata import version

    if wanted:
        typer.echo(version("omnigen2-rt"))
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", help="Say which version.", callback=print_version, is_eager=True)] = False,
) -> None:
    """Options of every command."""


def main() -> None:
    """The command. Errors print one line and exit 1, Ctrl-C exits 130; `--debug` shows where they come from."""
    debug = "--debug" in sys.argv[1:2]
    try:
        app()
    except SystemExit as end:
        if end.code == STOPPED:  # typer turned Ctrl-C into this
            sys.stderr.write("\nstopped\n" if sys.stderr.isatty() else "stopped\n")
        raise
    except (OmniGen2Error, MemoryError) as error:
        fail(str(error) or "out of memory", debug)
    except OSError as error:
        fail(f"{error.filename or 'file'}: {error.strerror or error}", debug)


def fail(message: str, debug: bool) -> None:
    """One line on stderr and exit code 1; with `debug`, the trace."""
    if debug:
        raise
    sys.stderr.write(f"\nerror: {message}\n" if sys.stderr.isatty() else f"error: {message}\n")
    raise SystemExit(1)
