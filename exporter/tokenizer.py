"""The bundle's tokenizer.json: the checkpoint's own, with the tokens that its other files add.

The runtime reads only tokenizer.json; transformers also reads added_tokens.json and tokenizer_config.json, and OmniGen2's own
`<|img|>` may stand in those alone. Code that a checkpoint brings (`auto_map`) is never read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError
from .bounded import run_bounded
from .json_files import parse_json, read_json, read_optional_json, read_text

Token = dict[str, Any]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
TRIALS = ("a" * 3000 + "!", " " * 3000 + "x", "1" * 3000 + "\n" * 3000, "aA1 !?'äß猫\n" * 300)
"""Texts at which a bad regular expression would take forever."""

QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The expression that splits a text for Qwen2's tokenizer (transformers/models/qwen2/tokenization_qwen2.py)."""
QWEN_TOKENS = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
"""The special tokens of Qwen2's tokenizer where its files name no others."""
NAMED_TOKENS = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


def tokenizer_folder(checkpoint: Path) -> Path:
    """The folder of the tokenizer's files: `processor/`, or `tokenizer/` where the former has none."""
    folders = (checkpoint / "processor", checkpoint / "tokenizer")
    return next((folder for folder in folders if _has_tokenizer(folder)), folders[0])


def _has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file()


def tokenizer_json(checkpoint: Path) -> str:
    """The text of the tokenizer.json to ship; made from vocab.json and merges.txt where the checkpoint has none.

    Raises ExportError where there is neither, a file has another form, or two files give one token different ids.
    """
    folder = tokenizer_folder(checkpoint)
    file = folder / "tokenizer.json"
    if not file.is_file():
        return _made(folder)
    text = read_text(file).removeprefix("\ufeff")
    tokenizer = parse_json(text, file)
    added = _list_of_tokens(file, tokenizer.get("added_tokens") or [])
    known = {token["content"]: token["id"] for token in added}
    vocabulary = {**_vocabulary(file, tokenizer), **known}
    missing = []
    for token in _tokens_of_other_files(folder):
        number = vocabulary.get(token["content"], token["id"])
        if number != token["id"]:
            raise ExportError(f"{folder} gives the token {token['content']!r} two ids, {number} and {token['id']}")
        if token["content"] not in known:
            missing.append(token)
    if not missing:
        return text
    tokenizer["added_tokens"] = sorted([*added, *missing], key=lambda token: token["id"])
    return json.dumps(tokenizer, ensure_ascii=False, indent=1)


def special_tokens(tokenizer: str, vocab_size: int) -> dict[str, int]:
    """The ids of a tokenizer.json's added tokens, by their text.

    Raises ExportError where the tokenizer can't be used, takes too long or has an id that the model has no embedding for.
    """
    tried = run_bounded("tokenize", "the checkpoint's tokenizer can't be used", tokenizer=tokenizer, texts=TRIALS)
    last_id, last = tried["last"]
    if last_id >= vocab_size:
        raise ExportError(
            f"the tokenizer gives {last!r} the id {last_id}; mllm/config.json has a vocab_size of {vocab_size}: "
            "the tokenizer is another model's, or the embedding was not enlarged"
        )
    added: dict[str, int] = tried["added"]
    return added


def template_variables(folder: Path) -> dict[str, Any]:
    """The special tokens that a chat template may name, such as eos_token, as transformers' Qwen2Tokenizer has them.

    special_tokens_map.json counts where tokenizer_config.json has no added_tokens_decoder.
    """
    config = read_optional_json(folder / "tokenizer_config.json")
    if config.get("added_tokens_decoder") is None:
        config |= read_optional_json(folder / "special_tokens_map.json")
    extra = config.get("extra_special_tokens")
    named = {**QWEN_TOKENS, **{name: config[name] for name in NAMED_TOKENS if name in config}}
    texts = {name: _text_of(value) for name, value in (named | (extra if isinstance(extra, dict) else {})).items()}
    several = config.get("additional_special_tokens")
    lists = {"additional_special_tokens": [_text_of(value) for value in several]} if isinstance(several, list) else {}
    return {name: value for name, value in {**texts, **lists}.items() if value}


def _text_of(token: Any) -> str | None:
    text = token.get("content") if isinstance(token, dict) else token
    return text if isinstance(text, str) else None


def _tokens_of_other_files(folder: Path) -> list[Token]:
    """The tokens of added_tokens.json (content -> id) and of tokenizer_config.json (id -> content and flags), each once."""
    plain = read_optional_json(folder / "added_tokens.json")
    file = folder / "tokenizer_config.json"
    described = read_optional_json(file).get("added_tokens_decoder") or {}
    if not isinstance(described, dict) or not all(isinstance(token, dict) for token in described.values()):
        raise ExportError(f"{file} has an added_tokens_decoder that isn't an object of tokens")
    tokens = [{"id": number, "content": content, **FLAGS} for content, number in plain.items()]
    for number, token in described.items():
        flags = {name: token.get(name, default) for name, default in FLAGS.items()}
        tokens.append({"id": _number(number), "content": token.get("content"), **flags})
    return list({token["content"]: token for token in _list_of_tokens(folder, tokens)}.values())


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else None


def _list_of_tokens(source: Path, tokens: Any) -> list[Token]:
    """`tokens`, checked: each has a text and an id from 0 up."""
    for token in tokens if isinstance(tokens, list) else [tokens]:
        number, text = (token.get("id"), token.get("content")) if isinstance(token, dict) else (None, None)
        if type(number) is not int or not 0 <= number < 2**31 or not isinstance(text, str):
            raise ExportError(f"{source} has the added token {token!r}, which lacks a text or an id from 0 up")
    return list(tokens)


def _vocabulary(file: Path, tokenizer: Token) -> dict[str, int]:
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict):
        raise ExportError(f"{file} has no vocabulary (model.vocab) that gives each token an id")
    return vocabulary


def _made(folder: Path) -> str:
    """A tokenizer.json of Qwen2's form from vocab.json, merges.txt and the added tokens."""
    absent = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if absent:
        raise ExportError(f"{folder} has no tokenizer.json, and none can be made from it: it lacks {' and '.join(absent)}")
    lines = read_text(folder / "merges.txt").removeprefix("\ufeff").split("\n")
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": read_json(folder / "vocab.json"),
        "merges": merges,
    }
    split = {"type": "Split", "pattern": {"Regex": QWEN_WORDS}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(_tokens_of_other_files(folder), key=lambda token: token["id"]),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": None,
        "decoder": {**level, "add_prefix_space": True, "use_regex": True},
        "model": model,
    }
    return json.dumps(tokenizer, ensure_ascii=False, indent=2)
