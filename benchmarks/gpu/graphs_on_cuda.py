"""One denoising step of the exported graphs on ONNX Runtime, compared with the original in torch and with the GPU's limit.

    python benchmarks/gpu/graphs_on_cuda.py CHECKPOINT BUNDLE --original FOLDER     # on a machine with an NVIDIA GPU
    python benchmarks/gpu/graphs_on_cuda.py CHECKPOINT BUNDLE --device cpu --size 64 --repeat 1

CHECKPOINT may be random weights of OmniGen2's size (`random_checkpoint.py benchmarks/full_size_configuration …`). BUNDLE is its
export, which is made first where it is missing. --original is a checkout of the original's code, whose requirements this
interpreter must have; without it only the graphs are measured. A step is one guidance branch, from latents to velocity, for text
alone and with one reference of the image's size. Prints one JSON document, which `--json FILE` also updates after every figure:
the original's compilation takes minutes.

The floor is the step's FLOPs (matrix products and attention of all layers: about 33 TFLOP for text alone and 77 with a
reference at 1024 × 1024) over the rate of a large matrix product in torch, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from omnigen2_rt.runtime.dtypes import PRECISIONS

PACKAGES = ("omnigen2-rt", "torch", "onnxruntime", "onnxruntime-gpu", "diffusers")


def milliseconds(call: Callable[[], Any], repeat: int, device: str) -> dict[str, float]:
    """The median and the best of `repeat` calls, after two warm-up calls."""
    times = []
    for number in range(repeat + 2):
        wait(device)
        started = time.perf_counter()
        call()
        wait(device)
        if number >= 2:
            times.append(1e3 * (time.perf_counter() - started))
    return {"median_ms": statistics.median(times), "best_ms": min(times)}


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def matmul_flops(dtype: torch.dtype, device: str) -> float:
    """FLOPs per second of a large matrix product."""
    size = 8192 if device == "cuda" else 256
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / milliseconds(lambda: a @ b, 5, device)["best_ms"] * 1e3


def step_flops(config: Any, image: int, references: int, text: int) -> float:
    """The FLOPs of one branch of one step: 2 per weight and token, 4 per pair of tokens and channel."""
    hidden, heads, kv_heads = config.hidden_size, config.num_attention_heads, config.num_kv_heads
    layer = 2 * hidden * hidden + 2 * hidden * hidden * kv_heads // heads + 3 * hidden * config.ffn_width
    joint = text + image + references

    def layers(tokens: int, count: int) -> float:
        return count * (2.0 * layer * tokens + 4.0 * hidden * tokens * tokens)

    refined = layers(image, config.num_refiner_layers) + (
        layers(references, config.num_refiner_layers) if references else 0
    )
    return layers(joint, config.num_layers) + refined


class Case:
    """The sizes and inputs of one branch, equal on both sides."""

    def __init__(self, manifest: Any, size_px: int, references: int, text_tokens: int) -> None:
        from omnigen2_rt.runtime.rope import request_rotary

        facts = manifest.transformer
        side = size_px // manifest.vae.downscale
        rng = np.random.default_rng(0)
        grid = (side // facts.patch_size,) * 2
        shape = (1, facts.latent_channels, side, side)
        self.latents = rng.standard_normal(shape, dtype=np.float32)
        self.references = [rng.standard_normal(shape, dtype=np.float32) for _ in range(references)]
        self.prompt = rng.standard_normal((1, text_tokens, manifest.mllm.hidden_size), dtype=np.float32)
        branch = {"cond": text_tokens}
        self.rotary = request_rotary(branch, [grid] * references, grid, facts.rope_axes, facts.rope_theta)
        self.text_tokens = text_tokens
        self.image_tokens = grid[0] * grid[1]
        self.reference_tokens = references * self.image_tokens
        self.hidden_size = facts.hidden_size


def graph_step(pipeline: Any, case: Case) -> Callable[[], np.ndarray]:
    """A step through the bundle's components. The prompt's context is computed once, as in a drawing."""
    sessions, backend = pipeline.components.sessions, pipeline.backend
    dtype = PRECISIONS[backend.precision].name
    tables = {
        name: {"cos": backend.to_device(table.cos), "sin": backend.to_device(table.sin)}
        for name, table in {
            "image": case.rotary.image,
            "text": case.rotary.text["cond"],
            "joint": case.rotary.joint["cond"],
            **{f"reference {index}": table for index, table in enumerate(case.rotary.references)},
        }.items()
    }
    context = sessions.run("context_refiner", {"prompt_embeds": case.prompt, **tables["text"]})["context"]
    no_references = backend.to_device(np.zeros((1, 0, case.hidden_size), np.float32), dtype)

    def step() -> np.ndarray:
        temb = sessions.run("timestep_embedding", {"timesteps": np.array([0.5], np.float32)})["temb"]
        tokens = no_references
        for index, latents in enumerate(case.references):
            feeds = {"earlier_references": tokens, "latents": latents, "index": np.array([index]), "temb": temb}
            tokens = sessions.run("reference_embedder", {**feeds, **tables[f"reference {index}"]})["references"]
        image = sessions.run("latent_embedder", {"latents": case.latents, "temb": temb, **tables["image"]})
        feeds = {"context": context, "references": tokens, **image, "temb": temb, **tables["joint"]}
        hidden = sessions.run("transformer", feeds)["hidden_states"]
        feeds = {"hidden_states": hidden, "temb": temb, "latents": case.latents}
        velocity: np.ndarray = backend.to_host(sessions.run("velocity_head", feeds)["velocity"])
        return velocity

    return step


class Original:
    """The original's transformer, eager and compiled."""

    def __init__(self, folder: Path, checkpoint: Path, dtype: torch.dtype, device: str) -> None:
        sys.path.insert(0, str(folder))
        from omnigen2.models.transformers.repo import OmniGen2RotaryPosEmbed
        from omnigen2.models.transformers.transformer_omnigen2 import OmniGen2Transformer2DModel

        load = OmniGen2Transformer2DModel.from_pretrained
        self.eager = load(str(checkpoint), subfolder="transformer", torch_dtype=dtype).to(device).eval()
        config = self.eager.config
        self.tables = OmniGen2RotaryPosEmbed.get_freqs_cis(config.axes_dim_rope, config.axes_lens, theta=10000)
        self.dtype, self.device = dtype, device

    def step(self, model: Any, case: Case) -> Callable[[], np.ndarray]:
        def to_device(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(self.device, self.dtype)

        references = [[to_device(latents[0]) for latents in case.references]] if case.references else None
        arguments = {
            "hidden_states": to_device(case.latents),
            "timestep": torch.tensor([0.5], device=self.device),
            "text_hidden_states": to_device(case.prompt),
            "freqs_cis": self.tables,
            "text_attention_mask": torch.ones(1, case.text_tokens, dtype=torch.bool, device=self.device),
            "ref_image_hidden_states": references,
        }

        def step() -> np.ndarray:
            with torch.no_grad():
                output: np.ndarray = model(**arguments).float().cpu().numpy()
                return output

        return step


def measure(options: argparse.Namespace, report: dict[str, Any], save: Callable[[], None]) -> None:
    """Adds each figure to the report once it is measured, and calls `save`."""
    from omnigen2_rt import load
    from omnigen2_rt.exporter.checkpoint import Checkpoint
    from omnigen2_rt.exporter.export import export_bundle

    if not options.bundle.exists():
        export_bundle(options.checkpoint, options.bundle, precisions=(options.precision,))
    dtype = getattr(torch, PRECISIONS[options.precision].name)
    rate = matmul_flops(dtype, options.device)
    config = Checkpoint.open(options.checkpoint).transformer
    report |= {"matmul_tflops": rate / 1e12, "cases": {}}
    free = free_bytes(options.device)
    with load(options.bundle, backend=f"ort-{options.device}", precision=options.precision) as pipeline:
        cases = {
            name: Case(pipeline.bundle.manifest, options.size, count, options.text_tokens)
            for name, count in (("text", 0), ("+1 image", 1))
        }
        velocities = {}
        for name, case in cases.items():
            step = graph_step(pipeline, case)
            flops = step_flops(config, case.image_tokens, case.reference_tokens, case.text_tokens)
            velocities[name] = step()
            report["cases"][name] = {
                "joint_tokens": case.text_tokens + case.image_tokens + case.reference_tokens,
                "tflop": flops / 1e12,
                "floor_ms": 1e3 * flops / rate,
                "graphs": milliseconds(step, options.repeat, options.device),
                "graphs: device bytes so far": free - free_bytes(options.device),
            }
            save()
    if options.original is None:
        return
    free = free_bytes(options.device)
    original = Original(options.original, options.checkpoint, dtype, options.device)
    models = {"original eager": original.eager}
    if options.device == "cuda":
        models["original compiled"] = torch.compile(original.eager)
    for label, model in models.items():
        for name, case in cases.items():
            step = original.step(model, case)
            difference = np.linalg.norm(step() - velocities[name]) / np.linalg.norm(velocities[name])
            report["cases"][name] |= {
                label: milliseconds(step, options.repeat, options.device),
                f"{label}: relative difference": float(difference),
                f"{label}: device bytes so far": free - free_bytes(options.device),
            }
            save()


def free_bytes(device: str) -> int:
    """Free bytes of the device's memory; 0 on a CPU."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else 0


def machine(device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {"device": device, "system": platform.platform(), "versions": {}}
    for package in PACKAGES:
        try:
            facts["versions"][package] = version(package)
        except PackageNotFoundError:
            continue
    facts["onnxruntime"] = onnxruntime.__version__  # the one that ran, if two are installed
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--original", type=Path, help="a checkout of the original")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), help="bf16 on CUDA, fp32 on a CPU")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--text-tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the JSON document here, after every figure")
    options = parser.parse_args()
    options.precision = options.precision or ("bf16" if options.device == "cuda" else "fp32")
    report = {"benchmark": "graphs_on_cuda", "machine": machine(options.device), "size_px": options.size}
    report["precision"] = options.precision

    def save() -> None:
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    measure(options, report, save)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
