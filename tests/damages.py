"""Damages of a checkpoint or a bundle: by name, what spoils a copy of golden A, and what must be said of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import dtype as torch_dtype
from torch import float8_e4m3fn, float64, int64

from tests.exporter.checkpoints import TRANSFORMER, edit_json

GRAPH = "blend.fp32.onnx"
TENSOR = "x_embedder.bias"
INDEX = "transformer/diffusion_pytorch_model.safetensors.index.json"

Damages = dict[str, tuple[Callable[[Path], object], str]]


def truncate(file: Path) -> None:
    """Cut a file's last bytes off."""
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path, at: int) -> None:
    """Invert one byte in place."""
    with file.open("r+b") as opened:
        opened.seek(at, 2 if at < 0 else 0)
        byte = opened.read(1)[0]
        opened.seek(-1, 1)
        opened.write(bytes([byte ^ 255]))


def convert(file: Path, dtype: torch_dtype) -> None:
    """Store one tensor in another type."""
    tensors = load_file(file)
    save_file({**tensors, TENSOR: tensors[TENSOR].to(dtype)}, file)


def add_tensor(file: Path) -> None:
    """A tensor that no network has."""
    tensors = load_file(file)
    save_file({**tensors, "spare": tensors[TENSOR].clone()}, file)


def lose_a_shard(checkpoint: Path) -> None:
    """Make of the weights two shards, and lose the second."""
    (checkpoint / TRANSFORMER).rename(checkpoint / "transformer/first.safetensors")
    names = load_file(checkpoint / "transformer/first.safetensors")
    index = {"weight_map": {name: f"{'second' if name == TENSOR else 'first'}.safetensors" for name in names}}
    (checkpoint / INDEX).write_text(json.dumps(index))


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """A damage that changes a bundle's manifest."""

    def damage(bundle: Path) -> None:
        file = bundle / "bundle.json"
        data = json.loads(file.read_text())
        change(data)
        file.write_text(json.dumps(data))

    return damage


def stored_as(dtype: torch_dtype, name: str) -> tuple[Callable[[Path], object], str]:
    """A tensor in a type that no graph reads."""
    message = f"{TENSOR!r}.* is stored as {name}; allowed are F32, F16, BF16: convert the checkpoint first"
    return lambda c: convert(c / TRANSFORMER, dtype), message


CHECKPOINT_DAMAGES: Damages = {
    "no folder": (lambda c: shutil.rmtree(c / "vae"), "is not an OmniGen2 checkpoint: it lacks vae/"),
    "no config": (lambda c: (c / "vae/config.json").unlink(), r"vae/config\.json is missing"),
    "no JSON": (lambda c: (c / "mllm/config.json").write_text("{"), r"mllm/config\.json is not JSON"),
    "a JSON list": (lambda c: (c / "vae/config.json").write_text("[]"), r"vae/config\.json is not a JSON object"),
    "no weights": (lambda c: (c / TRANSFORMER).unlink(), "transformer holds no weights"),
    "no safetensors": (lambda c: (c / TRANSFORMER).write_text("weights"), "is truncated or no safetensors file"),
    "truncated": (lambda c: truncate(c / TRANSFORMER), "is truncated: tensor"),
    "no shard": (lose_a_shard, r"second\.safetensors is missing; .* names it"),
    "no tokenizer": (lambda c: (c / "processor/tokenizer.json").write_text("{"), r"tokenizer\.json is not JSON"),
    "no image processor": (
        lambda c: (c / "processor/preprocessor_config.json").unlink(),
        r"preprocessor_config\.json is missing: the checkpoint is incomplete",
    ),
    "word in image processor": (
        lambda c: edit_json(c / "processor/preprocessor_config.json", patch_size="big"),
        r"preprocessor_config\.json has patch_size='big'; an integer from 1 to 1024 is allowed$",
    ),
    "word in sampling": (
        lambda c: edit_json(c / "mllm/generation_config.json", top_p="most"),
        r"generation_config\.json has top_p='most'; a number from 0 to 1 is allowed$",
    ),
    "unknown key": (lambda c: edit_json(c / "transformer/config.json", spin=1), r"unknown keys \['spin'\]"),
    "word for number": (lambda c: edit_json(c / "transformer/config.json", hidden_size="wide"), "hidden_size='wide'"),
    "word in mllm": (lambda c: edit_json(c / "mllm/config.json", hidden_size="wide"), "hidden_size='wide' must be an integer"),
    "other activation": (lambda c: edit_json(c / "vae/config.json", act_fn="gelu"), "act_fn='gelu'"),
    "other scheduler": (
        lambda c: edit_json(c / "scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        "names the scheduler 'DDIMScheduler'; OmniGen2 uses FlowMatchEulerDiscreteScheduler",
    ),
    "no scheduler file": (lambda c: (c / "scheduler/scheduler_config.json").unlink(), "the checkpoint is incomplete"),
    "more layers": (lambda c: edit_json(c / "transformer/config.json", num_layers=4), r"lacks layers\.3"),
    "fewer layers": (lambda c: edit_json(c / "transformer/config.json", num_layers=2), r"has unknown layers\.2"),
    "a tensor too many": (lambda c: add_tensor(c / TRANSFORMER), "has unknown spare"),
    "other shape": (lambda c: edit_json(c / "mllm/config.json", vocab_size=641), "has a wrong shape of"),
    "integers": stored_as(int64, "I64"),
    "doubles": stored_as(float64, "F64"),
    "8 bits": stored_as(float8_e4m3fn, "F8_E4M3"),
}

BUNDLE_DAMAGES: Damages = {
    "newer": (edit(lambda m: m.update(format_version=99)), "has format version 99; this release reads up to 2: upgrade"),
    "no version": (edit(lambda m: m.pop("format_version")), "has no format_version: it is not a bundle's manifest"),
    "unknown key": (edit(lambda m: m.update(colour="red")), r"unknown \['colour'\]"),
    "missing key": (edit(lambda m: m.pop("vae")), r"missing \['vae'\]"),
    "inner key": (edit(lambda m: m["vae"].pop("downscale")), r"\.vae: missing \['downscale'\]"),
    "wrong type": (edit(lambda m: m["vae"].update(downscale="8")), r"\.vae\.downscale is '8', not int"),
    "no JSON": (lambda b: (b / "bundle.json").write_text("{"), "is not JSON"),
    "no text": (lambda b: (b / "bundle.json").write_bytes(b"\xff\xfe"), "can't be read"),
    "changed graph": (lambda b: flip(b / GRAPH, 40), f"{GRAPH}' has changed since the export"),
    "missing graph": (lambda b: (b / GRAPH).unlink(), f"{GRAPH}' is missing: the bundle is incomplete"),
    "missing weights": (lambda b: (b / TRANSFORMER).unlink(), "safetensors' is missing"),
    "truncated weights": (lambda b: truncate(b / TRANSFORMER), "bytes where the bundle says"),
    "other header": (lambda b: flip(b / TRANSFORMER, 12), "the header of .* has changed since the export"),
}
