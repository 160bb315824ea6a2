"""Text from tokens as it becomes certain."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from omnigen2_rt.runtime.chat.detokenizer import Detokenizer
from omnigen2_rt.runtime.mllm.tokenizer import Tokenizer
from tests.runtime.goldens import GOLDENS

TEXT = "café 水彩 \U0001f600 over 12 birds, e\u0301"


def decode_bytes(ids: Sequence[int]) -> str:
    """The decoder of a tokenizer whose tokens are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces_of(text: str | bytes, stop: Sequence[str] = ()) -> tuple[list[str], bool]:
    detokenizer = Detokenizer(decode_bytes, stop)
    parts = []
    for token in text.encode() if isinstance(text, str) else text:
        parts.append(detokenizer.add(token))
        if detokenizer.stopped:
            return parts, True
    return [*parts, detokenizer.end()], False


def test_text_comes_in_whole_characters() -> None:
    parts, _ = pieces_of(TEXT)
    assert "".join(parts) == TEXT and set("".join(parts)) == set(TEXT)
    assert [part for part in parts if part] == list(TEXT)


def test_pieces_of_the_recorded_tokenizer_make_up_the_text() -> None:
    tokenizer = Tokenizer(GOLDENS / "A" / "checkpoint" / "processor" / "tokenizer.json")
    detokenizer = Detokenizer(tokenizer.decode)
    parts = [detokenizer.add(token) for token in tokenizer.encode(TEXT)] + [detokenizer.end()]
    assert "".join(parts) == tokenizer.decode(tokenizer.encode(TEXT))


def test_bytes_that_form_no_character_come_at_the_end_or_with_what_follows() -> None:
    assert pieces_of(b"a\xe6")[0] == ["a", "", "\ufffd"]
    assert pieces_of(b"\xe6b")[0] == ["", "\ufffdb", ""]


@pytest.mark.parametrize(
    ("text", "stop", "released"),
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
def test_stop_text_is_never_released_not_even_its_beginning(text: str, stop: list[str], released: str) -> None:
    """It once came over several tokens, whose first ones had been released already."""
    parts, stopped = pieces_of(text, stop)
    assert "".join(parts) == released
    assert stopped == any(end in text for end in stop)


def test_text_is_not_held_back_longer_than_it_may_begin_a_stop_text() -> None:
    assert pieces_of("abxaby", ["abc"])[0] == ["", "", "abx", "", "", "aby", ""]

