"""Strict loading: missing, unused and misshapen tensors are named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from omnigen2_rt.reference.mllm import MLLMConfig
from omnigen2_rt.reference.weights import load_mllm, load_transformer, load_vae, mllm_parameter_name, read_config
from tests.runtime.goldens import CONFIGS, GOLDENS

Tensors = dict[str, Tensor]


def rewritten(folder: Path, part: str, change: Callable[[Tensors], Tensors]) -> Path:
    """A copy of a part of golden A with changed weights."""
    shutil.copytree(GOLDENS / "A" / "checkpoint" / part, folder / part)
    (file,) = (folder / part).glob("*.safetensors")
    save_file(change(load_file(file)), file)
    return folder


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("load", [load_transformer, load_vae, load_mllm])
def test_loaded_network_is_whole_and_of_the_dtype_asked_for(config: str, load: Callable[..., torch.nn.Module]) -> None:
    network = load(GOLDENS / config / "checkpoint", torch.bfloat16)
    assert not network.training
    assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
    assert {tensor.device.type for tensor in (*network.parameters(), *network.buffers())} == {"cpu"}


def test_loaded_weights_are_those_of_the_file() -> None:
    network = load_transformer(GOLDENS / "A" / "checkpoint")
    in_file = load_file(GOLDENS / "A" / "checkpoint" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert network.state_dict().keys() == in_file.keys()
    assert all(torch.equal(tensor, in_file[name].float()) for name, tensor in network.state_dict().items())


def test_loaded_weights_can_be_trained() -> None:
    network = load_transformer(GOLDENS / "A" / "checkpoint")
    network(torch.zeros(1, 16, 4, 4), torch.tensor([0.5]), torch.randn(1, 3, 64)).sum().backward()
    assert network.x_embedder.bias.grad is not None


def test_missing_unused_and_misshapen_weights_are_all_named(tmp_path: Path) -> None:
    def change(tensors: Tensors) -> Tensors:
        tensors["x_embedder.extra"] = tensors.pop("x_embedder.bias")
        tensors["norm_out.linear_2.bias"] = torch.zeros(3)
        return tensors

    with pytest.raises(ValueError) as error:
        load_transformer(rewritten(tmp_path, "transformer", change))
    assert str(error.value) == (
        f"{tmp_path / 'transformer'} does not fit its config.json: missing: x_embedder.bias; "
        "unused: x_embedder.extra; wrong shape: norm_out.linear_2.bias (3,) for (64,)"
    )


def test_mllm_of_newer_transformers_names_loads_the_same(tmp_path: Path) -> None:
    def rename(tensors: Tensors) -> Tensors:
        newer = {}
        for name, tensor in tensors.items():
            newer[
                "model." + name if name.startswith("visual.") else name.replace("model.", "model.language_model.")
            ] = tensor
        return newer

    newer, older = load_mllm(rewritten(tmp_path, "mllm", rename)), load_mllm(GOLDENS / "A" / "checkpoint")
    expected = older.state_dict()
    assert newer.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in newer.state_dict().items())


@pytest.mark.parametrize("writes_head", [True, False])
def test_tied_head_may_be_in_the_file_or_not(tmp_path: Path, writes_head: bool) -> None:
    def change(tensors: Tensors) -> Tensors:
        tensors.pop("lm_head.weight", None)
        if writes_head:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        return tensors

    model = load_mllm(rewritten(tmp_path, "mllm", change)).language_model
    hidden = torch.randn(1, 64)
    assert torch.equal(model.lm_head(hidden), hidden @ model.embed_tokens.weight.T)


def test_untied_head_that_the_file_lacks_is_missing(tmp_path: Path) -> None:
    folder = rewritten(tmp_path, "mllm", lambda tensors: {n: t for n, t in tensors.items() if n != "lm_head.weight"})
    config = folder / "mllm" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tie_word_embeddings": False}))
    with pytest.raises(ValueError, match=r"missing: language_model\.head\.weight"):
        load_mllm(folder)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
        ("model.language_model.layers.0.mlp.up_proj.weight", "language_model.layers.0.mlp.up_proj.weight"),
        ("visual.merger.ln_q.weight", "visual.merger.ln_q.weight"),
        ("model.visual.merger.ln_q.weight", "visual.merger.ln_q.weight"),
        ("lm_head.weight", None),
    ],
)
def test_mllm_names_of_both_layouts_become_ours(name: str, ours: str | None) -> None:
    assert mllm_parameter_name(name, MLLMConfig()) == ours


@pytest.mark.parametrize(
    ("text", "message"), [(None, "is missing"), ("{", "is not JSON"), ("[1]", "is not a JSON object")]
)
def test_unreadable_config_is_refused_by_name(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"config.json {message}"):
        read_config(tmp_path)
