"""Configs of a checkpoint that no network can be built from, or whose parts don't fit together."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.reference.weights import load_mllm
from omnigen2_rt.runtime.errors import ExportError
from omnigen2_rt.runtime.files.safetensors_header import read_header
from tests.exporter.checkpoints import A


def linked(tmp: Path) -> Path:
    """A copy of A whose weights are links."""
    return Path(shutil.copytree(A, tmp / "checkpoint", copy_function=_link_or_copy))


def _link_or_copy(source: str, target: str) -> None:
    os.symlink(source, target) if source.endswith(".safetensors") else shutil.copyfile(source, target)


def changed(tmp: Path, file: str, **changes: Any) -> Path:
    checkpoint = linked(tmp)
    path = checkpoint / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return checkpoint


VISION = json.loads((A / "mllm/config.json").read_text())["vision_config"]
REFUSED = {
    "patch of 0": ("transformer", {"patch_size": 0}, "patch_size=0 must be an integer from 1 to 64"),
    "2**31 layers": ("transformer", {"num_layers": 2**31}, "num_layers=2147483648 must be an integer from 1 to 1024"),
    "1000 layers": ("transformer", {"num_layers": 1000}, "tensors, too few for the 1006 layers of its config.json"),
    "negative": ("transformer", {"hidden_size": -96}, "hidden_size=-96 must be an integer"),
    "float": ("transformer", {"num_kv_heads": 2.0}, "num_kv_heads=2.0 must be an integer"),
    "boolean": ("transformer", {"num_refiner_layers": True}, "num_refiner_layers=True must be an integer"),
    "word": ("transformer", {"hidden_size": "96"}, "hidden_size='96' must be an integer"),
    "null": ("transformer", {"hidden_size": None}, "hidden_size=None must be an integer"),
    "short list": ("transformer", {"axes_dim_rope": [8, 8]}, r"axes_dim_rope=\(8, 8\) must be a list of 3 integers"),
    "number for a list": ("transformer", {"axes_lens": 3}, "axes_lens=3 must be a list of 3 integers"),
    "list of words": ("transformer", {"axes_dim_rope": ["8", 8, 8]}, "axes_dim_rope='8' must be an integer"),
    "wide feed-forward": ("transformer", {"multiple_of": 2**24, "ffn_dim_multiplier": 1e3}, "does not|doesn't fit its weights"),
    "VAE of a thousand blocks": ("vae", {"block_out_channels": [8] * 1000}, "must be one to 8 integers"),
    "VAE's sample of 0": ("vae", {"sample_size": 0}, "sample_size=0 must be an integer from 1"),
    "VAE's factor": ("vae", {"scaling_factor": "x"}, "scaling_factor='x' must be a number"),
    "VAE's flag": ("vae", {"force_upcast": "no"}, "force_upcast='no' must be true or false"),
    "VAE of grey pictures": ("vae", {"in_channels": 1}, "the VAE's in_channels is 1, a picture's channels are 3"),
    "MLLM of no layers": ("mllm", {"num_hidden_layers": 0}, "num_hidden_layers=0 must be an integer from 1"),
    "rope as a list": ("mllm", {"rope_scaling": [1]}, r"rope_scaling=\[1\] must be an object"),
    "sections": ("mllm", {"rope_scaling": {"mrope_section": [4, 4]}}, r"mrope_section=\(4, 4\) must be a list of 3 integers"),
    "text config as a word": ("mllm", {"text_config": "x"}, "text_config='x' must be an object"),
    "vision config as a list": ("mllm", {"vision_config": []}, r"vision_config=\[\] must be an object"),
    "vision of 2**31 blocks": ("mllm", {"vision_config": {**VISION, "depth": 2**31}}, "depth=2147483648 must be an integer"),
    "tie as a word": ("mllm", {"tie_word_embeddings": "no"}, "tie_word_embeddings='no' must be true or false"),
    "image token": ("mllm", {"image_token_id": 640}, "image_token_id=640 must be below vocab_size=640"),
}


@pytest.mark.parametrize(("part", "changes", "message"), REFUSED.values(), ids=REFUSED)
def test_config_out_of_range_is_refused_by_file_and_field(
    part: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Zeros, words and 2**31 layers ended in other exceptions, or in a network that was built for minutes."""
    with pytest.raises(ExportError, match=message) as error:
        Checkpoint.open(changed(tmp_path, f"{part}/config.json", **changes))
    assert part in str(error.value) or "parts don't fit" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": "hot"}, "has temperature='hot'; a number from 0 to 100"),
        ({"top_k": 2.5}, "has top_k=2.5; an integer"),
        ({"top_p": -1}, "has top_p=-1; a number from 0 to 1"),
        ({"eos_token_id": ["<|im_end|>"]}, "eos_token_id="),
        ({"repetition_penalty": True}, "repetition_penalty=True"),
    ],
)
def test_generation_settings_out_of_range_are_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        Checkpoint.open(changed(tmp_path, "mllm/generation_config.json", **changes))


def with_head(tmp: Path, factor: float) -> Path:
    """A checkpoint with a tied head that is the embedding times a factor."""
    from safetensors.numpy import load_file

    checkpoint = linked(tmp)
    file = checkpoint / "mllm/model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = (embedding.astype(np.float32) * factor).astype(embedding.dtype)
    file.unlink()
    save_file(tensors, file)
    return checkpoint


def test_tied_head_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    """A trained head under a config that ties was dropped without a word."""
    checkpoint = with_head(tmp_path, 1.5)
    message = "an lm_head.weight that differs from the embedding, and its config.json ties the two: remove lm_head.weight"
    with pytest.raises(ExportError, match=message):
        Checkpoint.open(checkpoint)
    with pytest.raises(ValueError, match=message):
        load_mllm(checkpoint)


def test_tied_head_that_copies_the_embedding_is_left_out(tmp_path: Path) -> None:
    assert "language_model.head.weight" not in Checkpoint.open(with_head(tmp_path, 1)).locations["mllm"]


def test_git_lfs_pointer_in_place_of_weights_says_so(tmp_path: Path) -> None:
    pointer = tmp_path / "model.safetensors"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(ValueError, match=r"model.safetensors is a git-lfs pointer: fetch the file itself \(git lfs pull\)"):
        read_header(pointer)
