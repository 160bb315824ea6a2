"""Checkpoints that are incomplete, damaged or of another kind: each gets its line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from omnigen2_rt.exporter.checkpoint import Checkpoint, drawing_template
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.checkpoints import TRANSFORMER, A, B, copied, edit_json, edit_tensors

TENSOR = "x_embedder.bias"


def truncate(folder: Path) -> None:
    file = folder / TRANSFORMER
    file.write_bytes(file.read_bytes()[:-100])


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda c: shutil.rmtree(c / "vae"), "is not an OmniGen2 checkpoint: it lacks vae/"),
    "no config": (lambda c: (c / "vae/config.json").unlink(), r"vae/config\.json is missing"),
    "no JSON": (lambda c: (c / "mllm/config.json").write_text("{"), r"mllm/config\.json is not JSON"),
    "no weights": (lambda c: (c / TRANSFORMER).unlink(), "transformer holds no weights"),
    "truncated": (truncate, "is truncated: tensor"),
    "unknown key": (lambda c: edit_json(c / "transformer/config.json", spin=1), r"unknown keys \['spin'\]"),
    "word for number": (lambda c: edit_json(c / "transformer/config.json", hidden_size="wide"), "hidden_size='wide'"),
    "word in mllm": (lambda c: edit_json(c / "mllm/config.json", hidden_size="wide"), "a value of the wrong type"),
    "other activation": (lambda c: edit_json(c / "vae/config.json", act_fn="gelu"), "act_fn='gelu'"),
    "other scheduler": (
        lambda c: edit_json(c / "scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
        "names the scheduler 'DDIMScheduler'; OmniGen2 uses FlowMatchEulerDiscreteScheduler",
    ),
    "no scheduler file": (lambda c: (c / "scheduler/scheduler_config.json").unlink(), "the checkpoint is incomplete"),
    "more layers": (lambda c: edit_json(c / "transformer/config.json", num_layers=4), r"lacks layers\.3"),
    "fewer layers": (lambda c: edit_json(c / "transformer/config.json", num_layers=2), r"has unknown layers\.2"),
    "other shape": (lambda c: edit_json(c / "mllm/config.json", vocab_size=641), "has a wrong shape of"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_checkpoint_that_is_damaged_gives_one_line(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    damage(checkpoint)
    with pytest.raises(ExportError, match=message) as caught:
        Checkpoint.open(checkpoint)
    assert "\n" not in str(caught.value)


def test_checkpoint_without_a_shard_names_it(tmp_path: Path) -> None:
    checkpoint = copied(B, tmp_path)
    shard = checkpoint / "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"
    shard.unlink()
    with pytest.raises(ExportError, match=rf"{shard.name} is missing"):
        Checkpoint.open(checkpoint)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, ml_dtypes.float8_e4m3fn], ids=["I64", "F64", "F8_E4M3"])
def test_checkpoint_of_an_unreadable_type_is_refused(dtype: np.dtype, tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    torch_tensors(checkpoint / TRANSFORMER, dtype)
    with pytest.raises(ExportError, match=f"{TENSOR!r}.*; allowed are F32, F16, BF16: convert the checkpoint first"):
        Checkpoint.open(checkpoint)


def torch_tensors(file: Path, dtype: np.dtype) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    kinds = {np.int64: torch.int64, np.float64: torch.float64}
    tensors = load_file(file)
    tensors[TENSOR] = tensors[TENSOR].to(kinds.get(dtype, torch.float8_e4m3fn))
    save_file(tensors, file)


def test_path_that_is_nowhere_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is neither a directory nor a Hugging Face id such as OmniGen2/OmniGen2"):
        Checkpoint.open(tmp_path / "absent")


def test_drawing_template_comes_from_the_checkpoint() -> None:
    template = drawing_template(A)
    assert template.count("{prompt}") == 1 and template.endswith("{prompt}<|im_end|>\n")


def test_checkpoint_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    (checkpoint / "processor/chat_template.json").unlink()
    edit_json(checkpoint / "processor/tokenizer_config.json", chat_template=None)
    with pytest.raises(ExportError, match="has no chat template"):
        drawing_template(checkpoint)


def test_checkpoint_with_a_tensor_too_many_names_it(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    edit_tensors(checkpoint / TRANSFORMER, lambda tensors: {**tensors, "spare": np.zeros(1, np.float32)})
    with pytest.raises(ExportError, match="has unknown spare"):
        Checkpoint.open(checkpoint)
