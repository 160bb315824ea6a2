"""The full-size model on this machine: the cost of its export, and one denoising step of its transformer on the CPU.

    python benchmarks/full_size.py CHECKPOINT BUNDLE [--json FILE]

CHECKPOINT is OmniGen2's, or random weights of its size (`random_checkpoint.py benchmarks/full_size_configuration …`). The
export runs in a separate process, whose peak memory is measured. The step runs at 256×256 with 60 text tokens in fp32: on ONNX
Runtime, which streams the weights from their bf16 file, and on the PyTorch reference, which loads one layer at a time. Both fit
into 24 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

IMAGE_TOKENS, TEXT_TOKENS = 16 * 16, 60


def measure_export(checkpoint: Path, bundle: Path) -> dict[str, Any]:
    """Seconds, peak resident bytes and disk bytes of `omnigen2 export` in a new process."""
    started = time.monotonic()
    command = [sys.executable, "-m", "omnigen2_rt", "export", str(checkpoint), str(bundle), "--force"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    graphs = list(bundle.glob("*.onnx"))
    return {
        "seconds": time.monotonic() - started,
        "peak_resident_bytes": peak,
        "disk_bytes_beyond_weights": sum(_own_bytes(path) for path in bundle.rglob("*")),
        "graphs": len(graphs),
        "graph_bytes": sum(path.stat().st_size for path in graphs),
    }


def _own_bytes(path: Path) -> int:
    """Disk bytes of the file alone; 0 for a hard link to the checkpoint."""
    stat = path.stat()
    return stat.st_blocks * 512 if path.is_dir() or stat.st_nlink == 1 else 0


def inputs(hidden: int, width: int, half: int) -> dict[str, np.ndarray]:
    """The transformer component's inputs for one picture of 256×256 px without references."""
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 2 * np.pi, (TEXT_TOKENS + IMAGE_TOKENS, half)).astype(np.float32)
    return {
        "context": rng.standard_normal((1, TEXT_TOKENS, hidden), dtype=np.float32),
        "references": np.zeros((1, 0, hidden), np.float32),
        "image_tokens": rng.standard_normal((1, IMAGE_TOKENS, hidden), dtype=np.float32),
        "temb": rng.standard_normal((1, width), dtype=np.float32),
        "cos": np.cos(angles),
        "sin": np.sin(angles),
    }


def run_graph(bundle: Path, feeds: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, Any]]:
    """The step on ONNX Runtime with streamed weights."""
    from omnigen2_rt import load

    started = time.monotonic()
    with load(bundle, backend="ort-cpu", precision="fp32", memory_limit_bytes=1 << 30) as pipeline:
        outputs = pipeline.components.sessions.run("transformer", feeds)
        first = time.monotonic() - started
        started = time.monotonic()
        pipeline.components.sessions.run("transformer", feeds)
        second = time.monotonic() - started
        hidden = pipeline.backend.to_host(outputs["hidden_states"])
    return hidden, {"open_and_first_s": first, "second_s": second, **_memory()}


def _memory() -> dict[str, int]:
    """Peak resident bytes, and anonymous bytes: without the mapped weight files, which the system may drop at any time."""
    from memory import memory

    return {"peak_resident_bytes": memory("VmHWM"), "anonymous_bytes_after": memory("RssAnon")}


def run_reference(checkpoint: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """The step on the PyTorch reference in float32, one layer's weights at a time."""
    import torch

    from omnigen2_rt.exporter.checkpoint import Checkpoint
    from omnigen2_rt.exporter.weights.tensor_file import read_tensor
    from omnigen2_rt.reference.transformer import join, omni_rope
    from omnigen2_rt.reference.transformer_blocks import ModulatedBlock

    opened = Checkpoint.open(checkpoint)
    places = opened.locations["transformer"]
    tensors = {name: torch.from_numpy(value) for name, value in feeds.items()}
    hidden = join(tensors["context"], None, tensors["image_tokens"])
    with torch.no_grad():
        for number in range(opened.transformer.num_layers):
            with torch.device("meta"):
                block = ModulatedBlock(opened.transformer, omni_rope)
            prefix = f"layers.{number}."
            weights = {
                name.removeprefix(prefix): torch.from_numpy(read_tensor(place).astype(np.float32))
                for name, place in places.items()
                if name.startswith(prefix)
            }
            block.load_state_dict(weights, assign=True)
            hidden = block(hidden, tensors["cos"], tensors["sin"], tensors["temb"])
    return hidden[:, TEXT_TOKENS:].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep-bundle", action="store_true", help="measure the step on a bundle that exists")
    arguments = parser.parse_args()
    report: dict[str, Any] = {
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in ("omnigen2-rt", "torch", "onnx", "onnxruntime")},
    }
    if not arguments.keep_bundle:
        report["export"] = measure_export(arguments.checkpoint, arguments.bundle)
        print(json.dumps(report["export"]), flush=True)
    from omnigen2_rt.exporter.checkpoint import Checkpoint

    config = Checkpoint.open(arguments.checkpoint).transformer
    feeds = inputs(config.hidden_size, config.conditioning_width, config.head_width // 2)
    hidden, report["step"] = run_graph(arguments.bundle, feeds)
    expected = run_reference(arguments.checkpoint, feeds)
    report["step"]["relative_error"] = float(np.linalg.norm(hidden - expected) / np.linalg.norm(expected))
    print(json.dumps(report, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
