"""Text to token ids and back, with the checkpoint's own tokenizer.json.

Knows nothing of prompts: templates and the meaning of special tokens are the bundle's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import tokenizers

from ..errors import BundleError, RequestError
from ..files.json_text import MAX_JSON_BYTES
from ..files.reading import read_bytes

PANIC = "PanicException"
"""The name of what a failure inside a Rust library raises. It derives from BaseException, and no module exports it."""


class Tokenizer:
    """A loaded tokenizer.json. Raises BundleError if the file is missing, damaged or of another kind."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        try:
            text = read_bytes(self._path, MAX_JSON_BYTES).decode()
        except FileNotFoundError:
            raise BundleError(f"no tokenizer at {self._path!r}; the bundle is incomplete, export it again") from None
        except (OSError, ValueError) as error:
            raise BundleError(f"tokenizer {self._path!r} cannot be read: {error}") from error
        with self._failures("cannot be read"):
            self._tokenizer = tokenizers.Tokenizer.from_str(text)
            # A file may ask for either; lengths are the caller's decision.
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens, special ones included."""
        return self._tokenizer.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Special tokens written out in it count as such; none are added.

        Raises RequestError for text that isn't valid Unicode, BundleError where the tokenizer can't take a valid one.
        """
        try:
            text.encode()
        except (AttributeError, UnicodeEncodeError) as error:
            raise RequestError(f"this text cannot be tokenized, it is not valid Unicode: {text!r}") from error
        with self._failures("cannot tokenize a text"):
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """The text of ids, by default without special tokens. Bytes that form no character become U+FFFD."""
        with self._failures("cannot decode tokens"):
            return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special)

    def token_id(self, name: str) -> int:
        """The id of a token such as "<|im_end|>". Raises BundleError if there is none."""
        number = self._tokenizer.token_to_id(name)
        if number is None:
            raise BundleError(f"tokenizer {self._path!r} has no token {name!r}; it belongs to another model")
        return number

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Turns every failure of the library in the block into a BundleError: it raises plain Exception, and panics."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception) or type(error).__name__ == PANIC:
                raise BundleError(f"tokenizer {self._path!r} {what}: {error}") from error
            raise
