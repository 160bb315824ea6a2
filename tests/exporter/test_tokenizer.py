"""The tokenizer that ships: the checkpoint's own, completed from its other files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from omnigen2_rt.exporter import bounded
from omnigen2_rt.exporter.checkpoint import Checkpoint
from omnigen2_rt.exporter.tokenizer import special_tokens, tokenizer_json
from omnigen2_rt.runtime.errors import ExportError
from tests.exporter.checkpoints import A, copied, edit_json

TEXT = "a cat<|im_end|>\n<|img|> äöü 猫"


def ids(checkpoint: Path) -> list[int]:
    numbers: list[int] = Tokenizer.from_str(tokenizer_json(checkpoint)).encode(TEXT, add_special_tokens=False).ids
    return numbers


def test_tokenizer_that_is_whole_ships_unchanged() -> None:
    assert tokenizer_json(A) == (A / "processor/tokenizer.json").read_text(encoding="utf-8")


def test_tokenizer_lacking_added_tokens_gets_them_from_the_other_files(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    file = checkpoint / "processor/tokenizer.json"
    data = json.loads(file.read_text())
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<|im_end|>"]
    file.write_text(json.dumps(data))
    assert Tokenizer.from_file(str(file)).encode(TEXT, add_special_tokens=False).ids != ids(A)
    assert ids(checkpoint) == ids(A)


def test_tokenizer_missing_is_made_from_vocabulary_and_merges(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    (checkpoint / "processor/tokenizer.json").unlink()
    assert ids(checkpoint) == ids(A)


def test_tokenizer_with_nothing_to_make_it_from_is_refused(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (checkpoint / "processor" / name).unlink()
    with pytest.raises(ExportError, match="has no tokenizer.json, and none can be made from it") as caught:
        tokenizer_json(checkpoint)
    assert "\n" not in str(caught.value)


def test_tokenizer_with_two_ids_for_a_token_is_refused(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    edit_json(checkpoint / "processor/added_tokens.json", **{"<|im_end|>": 7})
    edit_json(checkpoint / "processor/tokenizer_config.json", added_tokens_decoder={})
    with pytest.raises(ExportError, match=r"gives the token '<\|im_end\|>' two ids"):
        tokenizer_json(checkpoint)


def test_checkpoint_with_code_of_its_own_never_runs_it(tmp_path: Path) -> None:
    """`auto_map` made transformers ask whether to run the checkpoint's code, and run it."""
    checkpoint = copied(A, tmp_path)
    marker = tmp_path / "ran"
    auto_map = {"AutoTokenizer": ["own.Own", "own.Own"], "AutoConfig": "own.Own", "AutoProcessor": "own.Own"}
    for file in ("processor/tokenizer_config.json", "processor/preprocessor_config.json", "mllm/config.json"):
        edit_json(checkpoint / file, auto_map=auto_map, tokenizer_class="Own", processor_class="Own")
        (checkpoint / file).with_name("own.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (checkpoint / "processor/tokenizer.json").unlink()
    expected = Checkpoint.open(A)
    opened = Checkpoint.open(checkpoint)
    assert not marker.exists()
    assert opened.manifest.chat == expected.manifest.chat
    assert Tokenizer.from_str(opened.tokenizer).encode(TEXT).ids == Tokenizer.from_str(expected.tokenizer).encode(TEXT).ids


def test_tokenizer_in_a_folder_of_its_own_is_found(tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    (checkpoint / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json"):
        shutil.move(checkpoint / "processor" / name, checkpoint / "tokenizer" / name)
    assert tokenizer_json(checkpoint) == tokenizer_json(A)


def test_token_beyond_the_embedding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"gives '<\|img\|>' the id 622; mllm/config.json has a vocab_size of 622"):
        special_tokens(tokenizer_json(A), 622)
    assert special_tokens(tokenizer_json(A), 623)["<|img|>"] == 622


BYTE_LEVEL = {"type": "BPE", "vocab": {"a": 0}, "merges": []}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    "tokenizer",
    [
        {},
        {"model": {**BYTE_LEVEL, "merges": ["a b"]}},
        {"model": BYTE_LEVEL, "pre_tokenizer": {**SPLIT, "pattern": {"Regex": "("}}},
        {"model": BYTE_LEVEL, "pre_tokenizer": {**SPLIT, "pattern": {"Regex": "(a+)+$|(a|a)*b"}}},
        {"model": BYTE_LEVEL, "decoder": {"type": "Strip", "content": "", "start": -1, "stop": 0}},
    ],
)
def test_tokenizer_that_panics_or_takes_forever_is_refused(tokenizer: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic of the tokenizers library is no Exception; an expression that tries each way of splitting took forever."""
    monkeypatch.setattr(bounded, "CPU_S", 2)
    with pytest.raises(ExportError, match="the checkpoint's tokenizer can't be used: "):
        special_tokens(json.dumps(tokenizer), 10)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", {"added_tokens": 3, "model": BYTE_LEVEL}, "has the added token 3, which lacks a text or an id"),
        ("tokenizer.json", {"added_tokens": [{"id": "x", "content": "a"}], "model": BYTE_LEVEL}, "lacks a text or an id"),
        ("tokenizer.json", {"model": {"vocab": [["a", 0.5]]}}, "has no vocabulary"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "a"}}}, "lacks a text or an id from 0 up"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "an added_tokens_decoder that isn't an object of tokens"),
        ("added_tokens.json", {"a": None}, "lacks a text or an id from 0 up"),
    ],
)
def test_token_of_another_form_is_refused(name: str, content: object, message: str, tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    (checkpoint / "processor" / name).write_text(json.dumps(content))
    with pytest.raises(ExportError, match=message):
        tokenizer_json(checkpoint)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "merges.txt", "vocab.json"])
def test_git_lfs_pointer_of_the_tokenizer_says_so(name: str, tmp_path: Path) -> None:
    checkpoint = copied(A, tmp_path)
    if name in ("merges.txt", "vocab.json"):
        (checkpoint / "processor/tokenizer.json").unlink()
    (checkpoint / "processor" / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")
    with pytest.raises(ExportError, match=f"{name} is a git-lfs pointer: fetch the file itself"):
        tokenizer_json(checkpoint)
