"""Tokens to text as it becomes certain."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from omnigen2_rt.runtime.chat.detokenizer import Words
from omnigen2_rt.runtime.errors import RequestError
from omnigen2_rt.runtime.mllm.tokenizer import Tokenizer
from tests.runtime.goldens import GOLDENS

TEXT = "café 水彩 \U0001f600 over 12 birds, e\u0301"


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode("utf-8", errors="replace")


def spoken(text: str | bytes, stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    words = Words(Bytes(), stop)
    parts = []
    for token in text.encode() if isinstance(text, str) else text:
        parts.append(words.add(token))
        if words.stopped:
            return parts, True
    return [*parts, words.end()], False


def test_words_come_in_whole_characters() -> None:
    parts, _ = spoken(TEXT)
    assert "".join(parts) == TEXT and set("".join(parts)) == set(TEXT)
    assert [part for part in parts if part] == list(TEXT)


def test_words_of_the_recorded_tokenizer_make_up_the_text() -> None:
    tokenizer = Tokenizer(GOLDENS / "A" / "checkpoint" / "processor" / "tokenizer.json")
    words = Words(tokenizer)
    parts = [words.add(token) for token in tokenizer.encode(TEXT)] + [words.end()]
    assert "".join(parts) == tokenizer.decode(tokenizer.encode(TEXT))


def test_bytes_that_form_no_character_come_at_the_end_or_with_what_follows() -> None:
    assert spoken(b"a\xe6")[0] == ["a", "", "\ufffd"]
    assert spoken(b"\xe6b")[0] == ["", "\ufffdb", ""]


@pytest.mark.parametrize(
    ("text", "stop", "said"),
    [
        ("one two three", ["two"], "one "),
        ("one two three", ["three", "two"], "one "),
        ("aab", ["ab"], "a"),
        ("abab abc", ["abc"], "abab "),
        ("ab", ["abc"], "ab"),
        ("naïve", ["ïv"], "na"),
        ("x", ["x"], ""),
    ],
)
def test_stop_text_is_never_said_not_even_its_beginning(text: str, stop: list[str], said: str) -> None:
    """It once came over several tokens, whose first ones had been said already."""
    parts, stopped = spoken(text, stop)
    assert "".join(parts) == said
    assert stopped == any(end in text for end in stop)


def test_text_is_not_held_back_longer_than_it_may_begin_a_stop_text() -> None:
    assert spoken("abxaby", ["abc"])[0] == ["", "", "abx", "", "", "aby", ""]


@pytest.mark.parametrize("stop", ["word", [""], ["a", ""]])
def test_stop_that_is_no_list_of_texts_is_refused(stop: Sequence[str]) -> None:
    with pytest.raises(RequestError, match="is not a list of texts"):
        Words(Bytes(), stop)
