"""Checkpoints that are incomplete or something else; those of tests/damages.py go through the command (tests/cli)."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import errors

from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.checkpoints import A, B, copied, edit_json


def test_checkpoint_without_a_shard_names_it(tmp_path: Path) -> None:
    checkpoint = copied(B, tmp_path)
    shard = checkpoint / "transformer/diffusion_pytorch_model-00002-of-00003.safetensors"
    shard.unlink()
    with pytest.raises(ExportError, match=rf"{shard.name} is missing"):
        Checkpoint.open(checkpoint)


def test_path_that_is_nowhere_says_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="is neither a directory nor a Hugging Face id such as OmniGen2/OmniGen2"):
        Checkpoint.open(tmp_path / "absent")


def test_bundle_in_place_of_a_checkpoint_is_told_apart(bundles: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match="is a bundle that `omnigen2 export` made: give the checkpoint that it was made from"):
        Checkpoint.open(bundles["A"])


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (errors.LocalEntryNotFoundError, "the Hugging Face cache has no whole copy of it and the hub is out of reach"),
        (errors.RepositoryNotFoundError, "the Hugging Face hub has no such model, or shows it only after a login"),
        (errors.GatedRepoError, "the Hugging Face hub asks to accept its terms first, and to log in"),
        (ConnectionResetError, "the Hugging Face hub gives: "),
    ],
)
def test_name_that_the_hub_does_not_give_says_why(kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise kind.__new__(kind)  # the hub's own types want a response to be made with

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ExportError, match=f"'someone/absent' is no directory here, and {said}"):
        Checkpoint.open("someone/absent")


def test_drawing_template_comes_from_the_checkpoint() -> None:
    template = Checkpoint.open(A).manifest.prompts.drawing
    assert template.count("{prompt}") == 1 and template.endswith("{prompt}<|im_end|>\n")


def test_checkpoint_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    (checkpoint / "processor/chat_template.json").unlink()
    edit_json(checkpoint / "processor/tokenizer_config.json", chat_template=None)
    with pytest.raises(ExportError, match="has no chat template"):
        Checkpoint.open(checkpoint)
