"""The bundle's tokenizer.json: the checkpoint's own, with the tokens that its other files add.

The runtime reads only tokenizer.json; transformers also reads added_tokens.json and tokenizer_config.json, and OmniGen2's own
`<|img|>` may stand in those alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..runtime.errors import ExportError

Token = dict[str, Any]
FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def tokenizer_json(checkpoint: Path) -> str:
    """The text of the tokenizer.json to ship; made from vocab.json and merges.txt where the checkpoint has none.

    Raises ExportError where there is neither, a file is no JSON, or two files give one token different ids.
    """
    folder = checkpoint / "processor"
    file = folder / "tokenizer.json"
    if not file.is_file():
        return _converted(folder)
    text = file.read_text(encoding="utf-8")
    tokenizer = _object(text, file)
    known = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    vocabulary = {**tokenizer.get("model", {}).get("vocab", {}), **known}
    missing = []
    for token in _added_elsewhere(folder):
        given = vocabulary.get(token["content"], token["id"])
        if given != token["id"]:
            raise ExportError(f"{folder} gives the token {token['content']!r} two ids, {given} and {token['id']}")
        if token["content"] not in known:
            missing.append(token)
    if not missing:
        return text
    tokenizer["added_tokens"] = sorted([*tokenizer.get("added_tokens", []), *missing], key=lambda token: token["id"])
    return json.dumps(tokenizer, ensure_ascii=False, indent=1)


def _added_elsewhere(folder: Path) -> list[Token]:
    """The tokens of added_tokens.json (content -> id) and of tokenizer_config.json (id -> content and flags), each once."""
    plain = _optional(folder / "added_tokens.json")
    described = _optional(folder / "tokenizer_config.json").get("added_tokens_decoder") or {}
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


def _optional(file: Path) -> dict[str, Any]:
    return _object(file.read_text(encoding="utf-8"), file) if file.is_file() else {}


def _object(text: str, file: Path) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ExportError(f"{file} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ExportError(f"{file} is not a JSON object")
    return data
