"""The tokenizer that ships: the checkpoint's own, completed from its other files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from omnigen2_rt.exporter.tokenizer import tokenizer_json
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
