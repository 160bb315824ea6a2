"""The tokenizer against the ids that the original's gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from omnigen2_rt.runtime.errors import BundleError, RequestError
from omnigen2_rt.runtime.mllm.tokenizer import Tokenizer
from tests.runtime.goldens import CONFIGS, GOLDENS, arguments, arrays


def file_of(config: str) -> Path:
    return GOLDENS / config / "checkpoint" / "processor" / "tokenizer.json"


@pytest.mark.parametrize("config", CONFIGS)
def test_tokenizer_gives_the_recorded_ids_and_texts(config: str) -> None:
    tokenizer, recorded = Tokenizer(file_of(config)), arguments(config, "mllm")
    for case in recorded["tokenize"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
    for case in recorded["decode"]:
        assert tokenizer.decode(case["ids"], skip_special=False) == case["text"]
    for name, number in recorded["special_ids"].items():
        assert tokenizer.token_id(name) == number


@pytest.mark.parametrize("config", CONFIGS)
def test_tokenizer_gives_the_recorded_ids_of_whole_prompts(config: str) -> None:
    prompts = {k: v["text"] for k, v in arguments(config, "mllm").items() if k.startswith("t2i")}
    assert prompts
    for name, text in prompts.items():
        assert Tokenizer(file_of(config)).encode(text) == arrays(config, "mllm")[f"{name}_ids"][0].tolist()


def test_tokenizer_decodes_without_special_tokens() -> None:
    tokenizer = Tokenizer(file_of("A"))
    ids = tokenizer.encode("<|im_start|>cat<|im_end|>")
    assert tokenizer.decode(ids) == "cat"
    assert tokenizer.decode([]) == ""


def test_tokenizer_file_that_asks_for_truncation_or_padding_does_neither(tmp_path: Path) -> None:
    stored = json.loads(file_of("A").read_text())
    stored["truncation"] = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    stored["padding"] = {
        "strategy": {"Fixed": 30}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 600, "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }  # fmt: skip
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(stored))
    assert Tokenizer(path).encode("A dog running in the park") == [32, 393, 220, 479, 77, 77, 302, 293, 258, 567]


def test_tokenizer_missing_or_damaged_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"^no tokenizer at '.*none\.json'; the bundle is incomplete"):
        Tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(BundleError, match=r"^tokenizer '.*bad\.json' cannot be read: "):
        Tokenizer(tmp_path / "bad.json")


def test_tokenizer_without_a_token_says_so() -> None:
    with pytest.raises(BundleError, match=r"has no token '<\|none\|>'; it belongs to another model$"):
        Tokenizer(file_of("A")).token_id("<|none|>")


def test_tokenizer_of_text_that_is_no_unicode_says_so() -> None:
    with pytest.raises(RequestError, match=r"^this text cannot be tokenized, it is not valid Unicode: 'a\\ud800'$"):
        Tokenizer(file_of("A")).encode("a\ud800")


KINDS: dict[str, object] = {
    "a list": [],
    "a number": 5,
    "an empty object": {},
    "another file": {"architectures": ["Qwen2"], "hidden_size": 5},
    "a vocabulary of texts": {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}},
    "an unknown model": {"version": "1.0", "model": {"type": "Mystery"}},
    "merges of what is no token": {"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_tokenizer_of_another_kind_gives_one_line(kind: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(KINDS[kind]))
    with pytest.raises(BundleError, match=r"^tokenizer '.*tokenizer\.json' cannot be read: "):
        Tokenizer(tmp_path / "tokenizer.json")


def test_tokenizer_that_fails_on_a_text_gives_one_line(tmp_path: Path) -> None:
    """The library's own exception left the pipeline."""
    model = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "[UNK]"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": model}))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(BundleError, match=r"^tokenizer '.*' cannot tokenize a text: "):
        tokenizer.encode("b")
    with pytest.raises(BundleError, match=r"^tokenizer '.*' cannot decode tokens: "):
        tokenizer.decode([-1])


def test_panic_of_the_library_gives_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A panic of Rust code derives from BaseException, so that `except Exception` let it through; Ctrl-C still does."""

    class PanicException(BaseException):
        pass

    class Failing:
        def __init__(self, error: BaseException) -> None:
            self._error = error

        def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
            raise self._error

    tokenizer = Tokenizer(file_of("A"))
    monkeypatch.setattr(tokenizer, "_tokenizer", Failing(PanicException("index out of bounds")))
    with pytest.raises(BundleError, match="cannot decode tokens: index out of bounds"):
        tokenizer.decode([1])
    monkeypatch.setattr(tokenizer, "_tokenizer", Failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        tokenizer.decode([1])
