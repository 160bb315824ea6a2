"""The bundle's tokenizer.json: the checkpoint's own, with the tokens that its other files add.

The runtime reads only tokenizer.json; transformers also reads added_tokens.json and tokenizer_config.json, and OmniGen2's own
`<|img|>` may stand in those alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError
from .json_files import parse_json, read_optional_json

Token = dict[str, Any]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_json(checkpoint: Path) -> str:
    """The text of the tokenizer.json to ship; converted from vocab.json and merges.txt where the checkpoint has none.

    Raises ExportError where there is neither, a file is no JSON, or two files give one token different ids.
    """
    folder = checkpoint / "processor"
    file = folder / "tokenizer.json"
    if not file.is_file():
        return _converted(folder)
    text = file.read_text(encoding="utf-8")
    tokenizer = parse_json(text, file)
    known = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    vocabulary = {**tokenizer.get("model", {}).get("vocab", {}), **known}
    missing = []
    for token in _tokens_of_other_files(folder):
        number = vocabulary.get(token["content"], token["id"])
        if number != token["id"]:
            raise ExportError(f"{folder} gives the token {token['content']!r} two ids, {number} and {token['id']}")
        if token["content"] not in known:
            missing.append(token)
    if not missing:
        return text
    tokenizer["added_tokens"] = sorted([*tokenizer.get("added_tokens", []), *missing], key=lambda token: token["id"])
    return json.dumps(tokenizer, ensure_ascii=False, indent=1)


def special_tokens(tokenizer: str) -> dict[str, int]:
    """The ids of a tokenizer.json's added tokens, by their text."""
    import tokenizers

    added = tokenizers.Tokenizer.from_str(tokenizer).get_added_tokens_decoder()
    return {token.content: number for number, token in added.items()}


def _tokens_of_other_files(folder: Path) -> list[Token]:
    """The tokens of added_tokens.json (content -> id) and of tokenizer_config.json (id -> content and flags), each once."""
    plain = read_optional_json(folder / "added_tokens.json")
    described = read_optional_json(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
    tokens = {content: {"id": index, "content": content, **FLAGS} for content, index in plain.items()}
    for index, token in described.items():
        flags = {name: token.get(name, default) for name, default in FLAGS.items()}
        tokens[token["content"]] = {"id": int(index), "content": token["content"], **flags}
    return list(tokens.values())


def _converted(folder: Path) -> str:
    from transformers import AutoTokenizer

    absent = [name for name in ("vocab.json", "merges.txt") if not (folder / name).is_file()]
    if absent:  # transformers makes an empty tokenizer then
        raise ExportError(f"{folder} has no tokenizer.json, and none can be made from it: it lacks {' and '.join(absent)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return str(tokenizer.backend_tokenizer.to_str(pretty=True))
    except Exception as error:  # transformers raises many types for an incomplete folder
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(f"{folder} has no tokenizer.json, and none can be made from it: {reason}") from error
