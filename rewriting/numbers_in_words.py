"""Numbers in a text, in English words or in digits: "two hundred" and "200" are the same, and so are "eleventh" and "11th"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_SMALL_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth",
    "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth",
)  # fmt: skip
_SCALES = {"hundred": 100, "thousand": 1000, "dozen": 12}
_CARDINALS = {
    **{word: number for number, word in enumerate(_SMALL_WORDS)},
    **{word: 10 * number for number, word in enumerate(_TENS_WORDS, 2)},
    **_SCALES,
}
_ORDINALS = {
    **{word: number for number, word in enumerate(_SMALL_ORDINALS, 1)},
    **{f"{word[:-1]}ieth": 10 * number for number, word in enumerate(_TENS_WORDS, 2)},
    "hundredth": 100, "thousandth": 1000,
}  # fmt: skip
_HYPHENS = dict.fromkeys(map(ord, "‐‑‒–"), "-")
_WORD = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*(?:(?:st|nd|rd|th)(?![^\W\d_]))?")
_GROUPED = re.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_LONGEST = 16
"""Words of a number."""
_LINKS = re.compile(r"\s*-\s*|\s+")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word or a number of a text: its lower-case text, and its place."""

    text: str
    begin: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Named:
    """A number of a text, or a word that is none.

    meaning: the number's digits, with a point after an ordinal; None for another word.
    begin, end: its place.
    """

    meaning: str | None
    begin: int
    end: int


def numbers_and_words(text: str) -> Iterator[Named]:
    """The text's numbers, each as one, and its other words, in their order."""
    plain = text.translate(_HYPHENS)
    words = list(_words(plain))
    at = 0
    while at < len(words):
        meaning, count = _number(plain, words[at : at + _LONGEST])
        last = words[at + max(count, 1) - 1]
        yield Named(meaning=meaning, begin=words[at].begin, end=last.end)
        at += max(count, 1)


def _words(text: str) -> Iterator[Word]:
    """The words and numbers; a list without spaces, such as 1,2,3, is several numbers."""
    for found in _WORD.finditer(text):
        word = found[0]
        if word.count(",") > 1 and not _GROUPED.fullmatch(word):
            begin = found.start()
            for part in word.split(","):
                yield Word(text=part.lower(), begin=begin, end=begin + len(part))
                begin += len(part) + 1
        else:
            yield Word(text=word.lower(), begin=found.start(), end=found.end())


def _number(text: str, words: Sequence[Word]) -> tuple[str | None, int]:
    """The number that the first words say, and how many words it takes; None and 0 where they say none."""
    first = words[0].text
    if first[0].isdigit() and not first.isdigit():
        return _digits(first), 1
    total, current, is_ordinal, count = 0, None, False, 0
    before = ""
    for number, word in enumerate(words):
        if number and not _LINKS.fullmatch(text[words[number - 1].end : word.begin]):
            break
        if word.text == "and" and before in ("hundred", "thousand"):
            continue
        value = _value_after(before, current, word.text)
        if value is None:
            break
        total, current = (total + value, 0) if word.text in ("thousand", "thousandth") else (total, value)
        before, count, is_ordinal = word.text, number + 1, word.text in _ORDINALS
        if is_ordinal or word.text == "dozen":
            break
    if count == 0:
        return None, 0
    return f"{total + (current or 0)}{'.' if is_ordinal else ''}", count


def _value_after(before: str, current: int | None, word: str) -> int | None:
    """The number below a thousand, or the thousands, after one more word; None where that belongs to another number."""
    value = _CARDINALS.get(word, _ORDINALS.get(word))
    if word.isdigit():
        return int(word) if current is None and len(word) < 19 else None
    if value is None:
        return None
    if current is None:
        return value
    if value in (100, 1000, 12) and word not in ("twelve", "twelfth"):
        is_free = before not in _SCALES or (before == "hundred" and value == 1000)
        return current * value if current and is_free else None
    if before in ("hundred", "thousand"):
        return current + value if value else None
    is_unit_after_tens = before in _TENS_WORDS and 0 < value < 10
    return current + value if is_unit_after_tens else None


def _digits(word: str) -> str:
    """A number in digits, in one spelling: without commas between thousands, with a point for a decimal comma."""
    if word[-1].isalpha():
        return f"{word[:-2].replace(',', '')}."
    return word.replace(",", "") if _GROUPED.fullmatch(word) else word.replace(",", ".")
