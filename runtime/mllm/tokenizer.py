"""Text to token ids and back, with the checkpoint's own tokenizer.json.

Knows nothing of prompts: templates and the meaning of special tokens are the bundle's.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import tokenizers

from ..errors import BundleError, RequestError


class Tokenizer:
    """A loaded tokenizer.json. Raises BundleError if the file is missing or damaged."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        if not os.path.isfile(self._path):
            raise BundleError(f"no tokenizer at {self._path!r}; the bundle is incomplete, export it again")
        try:
            self._tokenizer = tokenizers.Tokenizer.from_file(self._path)
        except Exception as error:  # the library raises plain Exception
            raise BundleError(f"tokenizer {self._path!r} cannot be read: {error}") from error
        # A file may ask for either; lengths are the caller's decision.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens, special ones included."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Special tokens written out in it count as such; none are added."""
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
        except (TypeError, UnicodeEncodeError) as error:
            raise RequestError(f"this text cannot be tokenized, it is not valid Unicode: {text!r}") from error

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids, by default without special tokens. Bytes that form no character become U+FFFD."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def token_id(self, name: str) -> int:
        """The id of a token such as "<|im_end|>". Raises BundleError if there is none."""
        number = self._tokenizer.token_to_id(name)
        if number is None:
            raise BundleError(f"tokenizer {self._path!r} has no token {name!r}; it belongs to another model")
        return number
