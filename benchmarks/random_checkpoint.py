"""Writes a checkpoint of random weights in the official layout, of any configuration, for benchmarks and full-size checks.

    python benchmarks/random_checkpoint.py CONFIGURATION CHECKPOINT [--processor FOLDER] [--dtype bf16] [--shard-mb 2000]

CONFIGURATION holds the JSON files of a checkpoint (`benchmarks/configuration`, or a real one's). Weights are drawn and written
in chunks, so that 15 GB take little memory. The scales keep all activations finite and all paths active: projections preserve
the variance, norm weights are near one, and no modulation is zero. The tokenizer comes from `--processor`.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

DTYPES = {"bf16": ("BF16", np.dtype(ml_dtypes.bfloat16)), "fp32": ("F32", np.dtype(np.float32))}
STEMS = {"transformer": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "mllm": "model"}
CHUNK = 1 << 22
PROCESSOR = Path(__file__).parent.parent / "tests/data/goldens/A/checkpoint/processor"

Shapes = dict[str, tuple[int, ...]]


def write_checkpoint(
    configuration: Path,
    checkpoint: Path,
    *,
    processor: Path = PROCESSOR,
    dtype: str = "bf16",
    shard_bytes: int = 2_000_000_000,
    seed: int = 0,
) -> int:
    """Write the checkpoint. Returns its number of parameters.

    Raises ValueError if the tokenizer has ids beyond the MLLM's vocabulary, FileExistsError if `checkpoint` exists.
    """
    _check_vocabulary(configuration, processor)
    checkpoint.mkdir(parents=True)
    for file in sorted(configuration.rglob("*.json")):
        target = checkpoint / file.relative_to(configuration)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    shutil.copytree(processor, checkpoint / "processor", dirs_exist_ok=True)
    rng = np.random.default_rng(seed)
    parts = tensor_shapes(configuration)
    for part, shapes in parts.items():
        _write_part(checkpoint / part, STEMS[part], shapes, dtype, shard_bytes, rng)
    return sum(math.prod(shape) for shapes in parts.values() for shape in shapes.values())


def tensor_shapes(configuration: Path) -> dict[str, Shapes]:
    """The shapes of each part's tensors by their names in the checkpoint's files."""
    import torch

    from omnigen2_rt.reference.mllm import MLLM, MLLMConfig
    from omnigen2_rt.reference.transformer import Transformer, TransformerConfig
    from omnigen2_rt.reference.vae import VAE, VAEConfig
    from omnigen2_rt.reference.vision import VisionConfig
    from omnigen2_rt.reference.weights import stored_mllm_name

    def read(part: str) -> Any:
        return json.loads((configuration / part / "config.json").read_text(encoding="utf-8"))

    mllm = read("mllm")
    with torch.device("meta"):
        networks = {
            "transformer": Transformer(TransformerConfig.from_json(read("transformer"))),
            "vae": VAE(VAEConfig.from_json(read("vae"))),
            "mllm": MLLM(MLLMConfig.from_json(mllm), VisionConfig.from_json(mllm)),
        }
    stored: dict[str, Callable[[str], str]] = {"transformer": str, "vae": str, "mllm": stored_mllm_name}
    return {
        part: {stored[part](name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        for part, network in networks.items()
    }


def _check_vocabulary(configuration: Path, processor: Path) -> None:
    size = json.loads((configuration / "mllm" / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    tokenizer = json.loads((processor / "tokenizer.json").read_text(encoding="utf-8"))
    ids = [*tokenizer["model"]["vocab"].values(), *(token["id"] for token in tokenizer["added_tokens"])]
    if max(ids) >= size:
        raise ValueError(f"{processor} has token {max(ids)}; the MLLM's vocab_size={size} ends before it")


def _write_part(
    folder: Path, stem: str, shapes: Shapes, dtype: str, shard_bytes: int, rng: np.random.Generator
) -> None:
    shards = list(_shards(shapes, DTYPES[dtype][1].itemsize, shard_bytes))
    names = [f"{stem}-{k + 1:05}-of-{len(shards):05}.safetensors" for k in range(len(shards))]
    if len(shards) == 1:
        names = [f"{stem}.safetensors"]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, shard, dtype, rng)
    if len(shards) > 1:
        weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(math.prod(shape) for shape in shapes.values()) * DTYPES[dtype][1].itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(shapes: Shapes, itemsize: int, shard_bytes: int) -> Iterator[Shapes]:
    shard: Shapes = {}
    filled = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * itemsize
        if shard and filled + nbytes > shard_bytes:
            yield shard
            shard, filled = {}, 0
        shard[name] = shape
        filled += nbytes
    yield shard


def write_tensors(path: Path, shapes: Shapes, dtype: str, rng: np.random.Generator) -> None:
    """Write one safetensors file, a chunk at a time."""
    label, numpy_dtype = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * numpy_dtype.itemsize
        header[name] = {"dtype": label, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            _write_values(file, name, shape, numpy_dtype, rng)


def _write_values(
    file: BinaryIO, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], rng: np.random.Generator
) -> None:
    mean, std = distribution(name, shape)
    count = math.prod(shape)
    for start in range(0, count, CHUNK):
        values = rng.standard_normal(min(CHUNK, count - start), dtype=np.float32)
        file.write((values * np.float32(std) + np.float32(mean)).astype(dtype).tobytes())


def distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of a tensor's values."""
    if name.endswith(".bias"):
        return 0.0, 0.02
    if len(shape) == 1:  # a norm's weight
        return 1.0, 0.1
    if "embed_tokens" in name or name == "image_index_embedding":
        return 0.0, 0.5
    std = 1 / math.sqrt(math.prod(shape[1:]))
    return 0.0, std / 2 if "norm1.linear" in name or name.startswith("norm_out.") else std


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configuration", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--processor", type=Path, default=PROCESSOR)
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="bf16")
    parser.add_argument("--shard-mb", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    parameters = write_checkpoint(
        arguments.configuration,
        arguments.checkpoint,
        processor=arguments.processor,
        dtype=arguments.dtype,
        shard_bytes=arguments.shard_mb * 1_000_000,
        seed=arguments.seed,
    )
    print(json.dumps({"checkpoint": str(arguments.checkpoint), "dtype": arguments.dtype, "parameters": parameters}))


if __name__ == "__main__":
    main()
