"""The `omnigen2` command: each command is one call into a folder below, imported when the command runs.

Knows how people type and read; every default of a drawing is `Request`'s own.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .runtime.errors import OmniGen2Error, RequestError
from .runtime.request import Request

app = typer.Typer(
    help="OmniGen2 without PyTorch: export a checkpoint, then draw, edit and measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
DEFAULTS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Request)}

Backend = Annotated[str, typer.Option(help="auto, or a backend that `omnigen2 doctor` lists.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")]
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
    lora_scale: Annotated[float, typer.Option(help="How strongly the LoRA counts.")] = 1.0,
    materialize: Annotated[bool, typer.Option(help="Also write the weights converted to each precision.")] = False,
    force: Annotated[bool, typer.Option(help="Replace an existing bundle.")] = False,
) -> None:
    """Export a checkpoint to a bundle: graphs beside hard links to the checkpoint's own weights."""
    needs_extra("export", "torch", "onnx", "onnxscript", "safetensors")
    from .exporter.export import DEFAULT_PRECISIONS, Lora, export_bundle

    bar = ProgressLine()
    report = export_bundle(
        checkpoint,
        bundle,
        precisions=precision or DEFAULT_PRECISIONS,
        lora=None if lora is None else Lora(path=lora, scale=lora_scale),
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
def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw, or how to change the images.")],
    bundle: Annotated[str, typer.Option(help="The bundle's folder.")] = "nano",
    image: Annotated[list[Path] | None, typer.Option(help="An input image; may be repeated.")] = None,
    negative_prompt: Annotated[str, typer.Option(help="What to steer away from.")] = DEFAULTS["negative_prompt"],
    height: Annotated[int, typer.Option(help="Pixels.")] = DEFAULTS["height_px"],
    width: Annotated[int, typer.Option(help="Pixels.")] = DEFAULTS["width_px"],
    steps: Annotated[int, typer.Option(help="Model evaluations along the way.")] = DEFAULTS["steps"],
    text_guidance: Annotated[float, typer.Option(help="1 turns it off.")] = DEFAULTS["text_guidance"],
    image_guidance: Annotated[float, typer.Option(help="1.2-2 for editing.")] = DEFAULTS["image_guidance"],
    cfg_range: Annotated[tuple[float, float], typer.Option(help="The guided part of the steps.")] = DEFAULTS["cfg_range"],
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
    from .runtime.pipeline import load
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
    if not out.parent.is_dir():
        raise RequestError(f"the folder of --out, {str(out.parent)!r}, does not exist: make it first")
    limit = memory_bytes(memory_limit)
    with load(bundle, backend=backend, precision=precision, threads=threads, memory_limit_bytes=limit) as pipeline:
        bar = ProgressLine()
        total = steps if request.timesteps is None else len(request.timesteps)
        result = pipeline.generate(request, on_step=lambda step: bar.show(step.index + 1, total, "drawing"))
        bar.end()
    names = [out] if count == 1 else [out.with_name(f"{out.stem}-{k}{out.suffix}") for k in range(count)]
    for index, (picture, name) in enumerate(zip(result.images, names, strict=True)):
        save_png(picture, name, {**parameters(request), "bundle": Path(bundle).name, "index": index})
        typer.echo(str(name))


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
def doctor(as_json: AsJson = False) -> None:
    """Say what is installed, which backends work here, and why the others don't."""
    from .runtime.describe import diagnose

    show(diagnose(), as_json)


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle's folder.")],
    size: Annotated[int, typer.Option(help="Height and width of picture and references, in pixels.")] = 1024,
    steps: Annotated[int, typer.Option(help="Steps a drawing.")] = DEFAULTS["steps"],
    repeat: Annotated[int, typer.Option(help="Drawings a case; the median is shown.")] = 1,
    references: Annotated[int, typer.Option(help="Measure up to this many input images.")] = 3,
    cache: Annotated[str | None, typer.Option(help="teacache or taylorseer.")] = None,
    backend: Backend = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    memory_limit: MemoryLimit = None,
    json_file: JsonFile = None,
) -> None:
    """Measure the original's efficiency table: 0 to 3 input images, guidance throughout or on the first 60 %."""
    from .runtime.bench import measure, table, to_json
    from .runtime.pipeline import load

    limit = memory_bytes(memory_limit)
    with load(bundle, backend=backend, precision=precision, threads=threads, memory_limit_bytes=limit) as pipeline:
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
        write_json(json_file, to_json(pipeline, cases))


def cache_policy(name: str | None, threshold: float | None) -> Any:
    """The cache policy that was asked for. Raises RequestError for an unknown name."""
    from .runtime.caches import CACHES, TeaCache

    if threshold is not None and name != "teacache":
        raise RequestError("--tea-threshold belongs to --cache teacache")
    if name is None:
        return None
    if name not in CACHES:
        raise RequestError(f"--cache {name!r} is unknown; choose {' or '.join(CACHES)}")
    return CACHES[name]() if threshold is None else TeaCache(threshold=threshold)


def parameters(request: Request) -> dict[str, Any]:
    """What a picture's file says of how it was drawn: enough to draw it again."""
    stated = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    stated["images"] = [str(image) for image in stated["images"]]
    stated["latents"] = None if request.latents is None else "given"
    if request.cache is not None:
        stated["cache"] = repr(request.cache)
    return stated


def numbers(option: str, text: str) -> tuple[float, ...]:
    """Comma-separated numbers. Raises RequestError naming the option."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"{option} {text!r} is not a list of numbers such as 0,0.3,0.6") from None


def read_latents(path: Path) -> Any:
    """A .npy file's array. Raises RequestError where it can't be read."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RequestError(f"--latents {str(path)!r} can't be read as a .npy file: {error}") from error


def memory_bytes(text: str | None) -> int | None:
    """ "4GB", "500MB" or a number of bytes. Raises RequestError for anything else."""
    if text is None:
        return None
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "": 1}
    digits = text.rstrip("KMGBkmgb ")
    unit = text[len(digits) :].strip().upper()
    try:
        size = int(float(digits) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise RequestError(f"--memory-limit {text!r} is not a size such as 4GB or 500MB") from None
    if size < 1:
        raise RequestError(f"--memory-limit {text!r} is below the smallest size, 1 byte")
    return size


def needs_extra(extra: str, *modules: str) -> None:
    """Raises OmniGen2Error unless the modules of an install extra are there."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise OmniGen2Error(f'this needs {", ".join(missing)}: pip install "omnigen2-rt[{extra}]"')


def show(facts: dict[str, Any], as_json: bool) -> None:
    """Print nested facts as JSON or as indented lines."""
    typer.echo(json.dumps(facts, indent=1, ensure_ascii=False) if as_json else "\n".join(lines(facts)))


def lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Nested facts, a line each."""
    told = []
    for name, value in facts.items():
        if isinstance(value, dict):
            told += [f"{indent}{name}:", *lines(value, indent + "  ")]
        else:
            told.append(f"{indent}{name}: {value}")
    return told


def write_json(path: Path | None, data: dict[str, Any]) -> None:
    """Write figures to a file, if one was asked for. Raises RequestError where that can't be done."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RequestError(f"can't write {str(path)!r}: {error.strerror or error}") from error


class ProgressLine:
    """Progress with the time left on stderr: one line that is rewritten on a terminal, a few plain lines elsewhere."""

    def __init__(self) -> None:
        import time

        self._clock: Callable[[], float] = time.monotonic
        self._started = self._clock()
        self._shown_tenth = -1
        self._live = sys.stderr.isatty()

    def show(self, done: int, total: int, what: str) -> None:
        """`done` of `total` pieces are done; `what` is under way."""
        left = (self._clock() - self._started) * (total - done) / done if done else None
        time_left = "" if left is None else f", {left:.0f} s left"
        if self._live:
            filled = 24 * done // max(total, 1)
            sys.stderr.write(f"\r\x1b[K[{'#' * filled}{'.' * (24 - filled)}] {done}/{total} {what}{time_left}")
            sys.stderr.flush()
        elif 10 * done // max(total, 1) > self._shown_tenth:
            self._shown_tenth = 10 * done // max(total, 1)
            sys.stderr.write(f"{done}/{total} {what}{time_left}\n")

    def end(self) -> None:
        """Leave the line."""
        if self._live:
            sys.stderr.write("\r\x1b[K")


@app.callback()
def options(debug: Annotated[bool, typer.Option(help="Show the trace of an error.")] = False) -> None:
    """Options of every command."""
    if debug:
        sys.tracebacklimit = 1000


def main() -> None:
    """The command. Errors print one line and exit 1, Ctrl-C exits 130; `--debug` shows where they come from."""
    debug = "--debug" in sys.argv[1:]
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        fail("stopped", 130, debug)
    except (OmniGen2Error, MemoryError) as error:
        fail(str(error) or "out of memory", 1, debug)
    except OSError as error:
        fail(f"{error.filename or 'file'}: {error.strerror or error}", 1, debug)


def fail(message: str, code: int, debug: bool) -> None:
    """One line on stderr, and the exit code; with `debug`, the trace."""
    if debug:
        raise
    sys.stderr.write(f"\nerror: {message}\n" if sys.stderr.isatty() else f"error: {message}\n")
    raise SystemExit(code)
