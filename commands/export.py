"""`omnigen2 export` and `quantize`: a bundle from a checkpoint, and a smaller one from a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..runtime.errors import OmniGen2Error
from .option_values import memory_bytes
from .options import Threads, needs_extra
from .terminal import ProgressLine, say_lines


def export(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint's folder, or a Hugging Face id.")],
    bundle: Annotated[Path, typer.Argument(help="The folder to make.")],
    precision: Annotated[list[str] | None, typer.Option(help="fp32, fp16 or bf16; may be repeated.")] = None,
    lora: Annotated[list[Path] | None, typer.Option(help="A LoRA file (or folder) to merge; may be repeated.")] = None,
    lora_scale: Annotated[
        list[float] | None, typer.Option(help="The factor of the LoRA's change, 1 by default; one for each --lora.")
    ] = None,
    materialize: Annotated[bool, typer.Option(help="Also write the weights converted to each precision.")] = False,
    force: Annotated[bool, typer.Option(help="Replace an existing bundle.")] = False,
) -> None:
    """Export a checkpoint to a bundle: graphs beside hard links to the checkpoint's own weights."""
    needs_extra("export", "torch", "onnx", "onnxscript", "safetensors")
    from ..exporter.export import DEFAULT_PRECISIONS, export_bundle
    from ..exporter.weights.lora import Lora

    paths, scales = lora or [], lora_scale or [1.0] * len(lora or [])
    if lora_scale and not paths:
        raise OmniGen2Error("--lora-scale belongs to --lora")
    if len(scales) != len(paths):
        raise OmniGen2Error(f"{len(paths)} --lora and {len(scales)} --lora-scale: give each LoRA its scale, in the same order")
    bar = ProgressLine()
    report = export_bundle(
        checkpoint,
        bundle,
        precisions=precision or DEFAULT_PRECISIONS,
        lora=[Lora(path=path, scale=scale) for path, scale in zip(paths, scales, strict=True)],
        materialized=materialize,
        force=force,
        progress=bar.show,
    )
    bar.end()
    resumed = f", {report.resumed_graphs} of them from an earlier run" if report.resumed_graphs else ""
    say_lines(f"{report.bundle}: {report.graphs} graphs{resumed}, {report.seconds:.0f} s")
    for merged in report.loras:
        say_lines(str(merged))
    if report.copied:
        say_lines(f"note: {report.copied}")


def quantize(
    bundle: Annotated[str, typer.Argument(help="The bundle's folder, or nano.")],
    target: Annotated[Path, typer.Argument(help="The folder to make.")],
    scheme: Annotated[str, typer.Option(help="int8-weights, int4-weights, int8 or fp8.")],
    prompts: Annotated[Path | None, typer.Option(help="A text file of calibration prompts, one a line.")] = None,
    size: Annotated[
        int | None, typer.Option(help="Height and width of the calibration drawings; at most 256 by default.")
    ] = None,
    threads: Threads = None,
    memory_limit: Annotated[
        str | None, typer.Option(help="Keep open weights below this, e.g. 4GB; half the memory if they take more.")
    ] = None,
) -> None:
    """Make a smaller bundle, its graphs with 8- or 4-bit weights, and say what that costs."""
    needs_extra("export", "onnx", "onnx_ir")
    from ..exporter.quantize.bundle import quantize_bundle
    from ..exporter.quantize.calibration import calibration_of, read_prompts
    from ..nano.evaluation import scoring_for
    from ..runtime.bundle import Bundle
    from ..runtime.pipeline import bundle_path

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
    score = scoring_for(before)
    report = quantize_bundle(folder, target, scheme, calibration=calibration, score=score, progress=bar.show)
    bar.end()
    say_lines(report.table())
    say_lines(str(target))
