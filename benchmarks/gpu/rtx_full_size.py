"""Sections of `rtx_engines.py` with the full-size transformer of random weights: a step's time and memory, and streamed weights.

Measured are the main layers, which are nearly all of a step. A card that can't hold all 32 of them on every side at once gets
fewer, and a step of 32 layers is then scaled from them: layers are alike, so a step takes a time that is proportional to them.
"""

from __future__ import annotations

import gc
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from guarded import Figures
from rtx_bench import LIBRARY, RTXBench, engine_figures, in_turns, median_ms, remove_engine, timed

from omnigen2_rt.exporter.engines.options import Limits
from omnigen2_rt.exporter.verify.difference import relative_error
from omnigen2_rt.runtime.backends import BACKENDS, Backend, open_backend
from omnigen2_rt.runtime.backends.tensorrt.cuda import Device
from omnigen2_rt.runtime.bundle import Bundle
from omnigen2_rt.runtime.dtypes import DTYPES, PRECISIONS
from omnigen2_rt.runtime.rope import request_rotary

BENCHMARKS = Path(__file__).parents[1]
FULL_SIZE = BENCHMARKS / "full_size_configuration"
SMALL_PARTS = BENCHMARKS / "configuration"
ALL_LAYERS = 32
TEXT_TOKENS = 128
WARM_UP_S = 3.0
"""Kernels for the shape are compiled meanwhile, and the run is recorded."""
KEPT_GPU_BYTES = 3 * 10**9
"""For scratch and activations of every side."""
HOST_BYTES_PER_WEIGHT_BYTE = 2
"""The memory that a build takes, as a multiple of the weights; measured: 1.8."""
DISK_BYTES_PER_WEIGHT_BYTE = 3.1
"""The weights, an engine with them, and one that streams them."""

Run = Callable[[], np.ndarray]
"""A side's run of the main layers. Returns the image's hidden states (1, L, D) on the host."""


def step(bench: RTXBench, figures: Figures) -> None:
    """The full-size transformer beside PyTorch, eager and compiled, and ONNX Runtime; its memory as stated and as used."""
    bundle, layers = transformer_bundle(bench, figures)
    precision = bench.precisions[0]
    feeds = inputs(bundle, precision, bench.size_px)
    limits = Limits(max_size_px=bench.size_px, typical_size_px=bench.size_px, max_references=1)
    report = bench.build(bundle.path, precision, limits)
    if report is not None:
        figures.add(engine=engine_figures([*report.built, *report.reused][0]))
    runs: dict[str, Run] = {}
    for name, open_side in _sides(bench, bundle, precision).items():
        with figures.part(name) as part:
            runs[name] = _opened(bench, part, open_side, feeds)
    for name, seconds in in_turns(runs, bench.rounds).items():
        figures.values[name] |= {"median_ms": median_ms(seconds), "best_ms": 1e3 * min(seconds)}
        if layers != ALL_LAYERS:
            figures.values[name][f"scaled to {ALL_LAYERS} layers: median_ms"] = median_ms(seconds) * ALL_LAYERS / layers
        figures.add()
    exact = runs.get("torch eager", next(iter(runs.values())))()
    for name, run in runs.items():
        figures.values[name]["relative_difference"] = relative_error(exact, run())
    figures.add(rounds=bench.rounds, joint_tokens=feeds["cos"].shape[0])


def _sides(bench: RTXBench, bundle: Bundle, precision: str) -> dict[str, Callable[[dict[str, np.ndarray]], Run]]:
    """Functions that open the sides on a step's inputs. The measured backend comes first, while the GPU is empty."""
    device = "cuda" if bench.uses_engines else "cpu"

    def torch_side(compiled: bool) -> Callable[[dict[str, np.ndarray]], Run]:
        return lambda feeds: torch_run(bundle.path, precision, device, feeds, compiled)

    sides = {
        bench.backend: lambda feeds: graph_run(open_backend(bundle, bench.backend, precision), bundle, precision, feeds),
        "torch eager": torch_side(False),
    }
    if bench.uses_engines:
        sides |= {
            "torch.compile, each block": torch_side(True),
            "ort-cuda": lambda feeds: graph_run(open_backend(bundle, "ort-cuda", precision), bundle, precision, feeds),
        }
    return sides


def _opened(
    bench: RTXBench, part: Figures, open_side: Callable[[dict[str, np.ndarray]], Run], feeds: dict[str, np.ndarray]
) -> Run:
    """A side that is warm. Its figures: seconds of opening, the first run and the warm-up, and the GPU memory after each."""
    before = _used_bytes() if bench.uses_engines else 0

    def add(**seconds: float) -> None:
        part.add(**seconds)
        if bench.uses_engines:
            part.add(**{f"gpu_bytes after {name.removesuffix('_s')}": _used_bytes() - before for name in seconds})

    started = time.perf_counter()
    run = open_side(feeds)
    add(open_s=time.perf_counter() - started)
    add(first_run_s=timed(run))
    started, runs = time.perf_counter(), 0
    while runs < 3 or time.perf_counter() < started + WARM_UP_S:
        run()
        runs += 1
    add(warm_up_s=time.perf_counter() - started)
    return run


def _used_bytes() -> int:
    free, total = Device().memory_bytes()
    return total - free


def graph_run(backend: Backend, bundle: Bundle, precision: str, feeds: dict[str, np.ndarray]) -> Run:
    """The bundle's transformer on a backend. Inputs lie on its device; the output is copied to the host, as on every side."""
    spec = bundle.graph("transformer", backend.graph_precision)
    session = backend.open("transformer")
    inputs = {name: backend.to_device(array, DTYPES[spec.inputs[name].dtype].name) for name, array in feeds.items()}
    return lambda: backend.to_host(session.run(inputs)["hidden_states"])


def torch_run(bundle: Path, precision: str, device: str, feeds: dict[str, np.ndarray], compiled: bool) -> Run:
    """The reference's main layers in PyTorch, with the checkpoint's weights."""
    import torch

    dtype = getattr(torch, PRECISIONS[precision].name)
    layers = _torch_layers(bundle.parent / "checkpoint", device, dtype)
    calls = [torch.compile(layer) for layer in layers] if compiled else layers
    tables = ("cos", "sin")
    tensors = {
        name: torch.from_numpy(array).to(device, torch.float32 if name in tables else dtype) for name, array in feeds.items()
    }
    first_query = feeds["context"].shape[1] + feeds["references"].shape[1]

    def run() -> np.ndarray:
        with torch.no_grad():
            hidden = torch.cat([tensors[name] for name in ("context", "references", "image_tokens")], dim=1)
            for call in calls[:-1]:
                hidden = call(hidden, tensors["cos"], tensors["sin"], tensors["temb"])
            image = calls[-1](hidden, tensors["cos"], tensors["sin"], tensors["temb"], None, first_query)
            output: np.ndarray = image.float().cpu().numpy()
            return output

    return run


def _torch_layers(checkpoint: Path, device: str, dtype: Any) -> list[Any]:
    import torch

    from omnigen2_rt.exporter.checkpoint import Checkpoint
    from omnigen2_rt.exporter.weights.tensor_file import read_tensor
    from omnigen2_rt.reference.transformer import omni_rope
    from omnigen2_rt.reference.transformer_blocks import ModulatedBlock

    opened = Checkpoint.open(checkpoint)
    layers = []
    for number in range(opened.transformer.num_layers):
        prefix = f"layers.{number}."
        with torch.device("meta"):
            layer = ModulatedBlock(opened.transformer, omni_rope)
        weights = {
            name.removeprefix(prefix): torch.from_numpy(read_tensor(place).astype(np.float32)).to(device, dtype)
            for name, place in opened.locations["transformer"].items()
            if name.startswith(prefix)
        }
        layer.load_state_dict(weights, assign=True)
        layers.append(layer.eval())
    return layers


def inputs(bundle: Bundle, precision: str, size_px: int) -> dict[str, np.ndarray]:
    """The transformer's inputs for a picture of size_px × size_px without references."""
    facts = bundle.manifest.transformer
    spec = bundle.graph("transformer", precision)
    side = size_px // bundle.manifest.vae.downscale // facts.patch_size
    joint = request_rotary({"cond": TEXT_TOKENS}, [], (side, side), facts.rope_axes, facts.rope_theta).joint["cond"]
    rng = np.random.default_rng(0)
    tokens = {"context": TEXT_TOKENS, "references": 0, "image_tokens": side * side}
    made = {name: rng.standard_normal((1, count, facts.hidden_size), np.float32) for name, count in tokens.items()}
    made["temb"] = rng.standard_normal((1, spec.inputs["temb"].shape[-1]), np.float32)
    return {**made, "cos": joint.cos, "sin": joint.sin}


def weight_streaming(bench: RTXBench, figures: Figures) -> None:
    """The full-size transformer with half of its weights in host memory: milliseconds, GPU memory, the same output."""
    bundle, _ = transformer_bundle(bench, figures)
    precision = bench.precisions[0]
    feeds = inputs(bundle, precision, bench.size_px)
    limits = Limits(max_size_px=bench.size_px, typical_size_px=bench.size_px, max_references=1)
    report = bench.build(bundle.path, precision, limits, weight_streaming=True)
    assert report is not None, "the section needs a GPU and engines"
    record = [*report.built, *report.reused][0]
    figures.add(engine=engine_figures(record))
    half = bundle.graph("transformer", precision).resident_bytes // 2
    outputs = {}
    try:
        for name, limit in (("all weights on the GPU", None), ("half of them", half)):
            with figures.part(name) as part, _closed_again():

                def open_side(feeds: dict[str, np.ndarray], limit: int | None = limit) -> Run:
                    backend = open_backend(bundle, bench.backend, precision, memory_limit_bytes=limit)
                    return graph_run(backend, bundle, precision, feeds)

                part.add(limit_bytes=limit)
                run = _opened(bench, part, open_side, feeds)
                part.add(median_ms=median_ms(in_turns({name: run}, bench.rounds)[name]))
                outputs[name] = run()
                del run
    finally:
        remove_engine(bundle.path, record)  # a backend takes the newest engine, and this is not the step's
    if len(outputs) == 2:
        figures.add(relative_difference=relative_error(*outputs.values()))


@contextmanager
def _closed_again() -> Iterator[None]:
    """Frees what the block leaves to the garbage collector."""
    yield
    gc.collect()


def transformer_bundle(bench: RTXBench, figures: Figures) -> tuple[Bundle, int]:
    """The bundle of a transformer with as many layers as fit, and their number. The first call makes it, which needs PyTorch."""
    folder = bench.work / "transformer"
    if not (folder / "bundle").exists():
        _make_bundle(bench, folder, figures)
    layers = int(json.loads((folder / "checkpoint/transformer/config.json").read_text(encoding="utf-8"))["num_layers"])
    figures.add(layers=layers)
    return Bundle.open(folder / "bundle"), layers


def _make_bundle(bench: RTXBench, folder: Path, figures: Figures) -> None:
    sys.path.insert(0, str(BENCHMARKS))
    from random_checkpoint import tensor_shapes, write_checkpoint

    from omnigen2_rt.exporter.components import COMPONENTS
    from omnigen2_rt.exporter.export import export_bundle

    shutil.rmtree(folder, ignore_errors=True)
    configuration = folder / "configuration"
    _write_configuration(bench, configuration, 1)
    shapes = tensor_shapes(configuration)["transformer"]
    layer_bytes = 2 * sum(math.prod(shape) for name, shape in shapes.items() if name.startswith("layers."))
    layers, reason = (bench.layers, "--layers") if bench.layers else layers_that_fit(bench, layer_bytes)
    figures.add(layer_bytes=layer_bytes, layers_limited_by=reason)
    _write_configuration(bench, configuration, layers)
    figures.add(checkpoint_s=timed(lambda: write_checkpoint(configuration, folder / "checkpoint")))
    transformer = [component for component in COMPONENTS if component.name == "transformer"]
    precisions = (bench.precisions[0],)
    converted = bench.precisions[0] == "fp16"  # GPUs of compute capability 7.5 don't have the bf16 of the stored weights
    started = time.perf_counter()
    export_bundle(
        folder / "checkpoint", folder / "bundle", precisions=precisions, components=transformer, materialized=converted
    )
    figures.add(export_s=time.perf_counter() - started)


def _write_configuration(bench: RTXBench, folder: Path, layers: int) -> None:
    """The full-size transformer with this many layers, beside a small language model and VAE, which its main layers never see."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(bench.configuration or SMALL_PARTS, folder, ignore=shutil.ignore_patterns("*.safetensors", "processor"))
    config = Path(bench.configuration or FULL_SIZE) / "transformer/config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    width = json.loads((folder / "mllm/config.json").read_text(encoding="utf-8"))["hidden_size"]
    values |= {"num_layers": layers, "num_refiner_layers": 1, "text_feat_dim": width}
    (folder / "transformer/config.json").write_text(json.dumps(values), encoding="utf-8")


def layers_that_fit(bench: RTXBench, layer_bytes: int) -> tuple[int, str]:
    """The number of layers, 1 to 32, that fit everywhere, and what limits it."""
    host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    room = {
        "disk": (shutil.disk_usage(bench.work).free - 10**9) / DISK_BYTES_PER_WEIGHT_BYTE,
        "host memory": (host - 10**9) / HOST_BYTES_PER_WEIGHT_BYTE,
    }
    if bench.uses_engines and LIBRARY.problem() is None:
        copies = 2 + (BACKENDS["ort-cuda"].problem() is None)  # the engine, PyTorch, ONNX Runtime
        room["GPU memory"] = (Device().memory_bytes()[0] - KEPT_GPU_BYTES) / copies
    least = min(room, key=room.__getitem__)
    layers = int(room[least] // layer_bytes)
    return (ALL_LAYERS, "nothing: all layers") if layers >= ALL_LAYERS else (max(1, layers), least)
