"""The words of a prompt that must not get lost: numbers, colours, and texts in quotation marks.

Numbers and colours are English words and digits; "two" and "2" are the same, and so are "grey" and "gray". Knows no model.
"""

from __future__ import annotations

import re
from collections import Counter

_UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_NUMBERS = {
    **{word: str(number) for number, word in enumerate(_UNITS)},
    **{word: str(10 * number) for number, word in enumerate(_TENS, 2)},
    **{f"{tens}-{_UNITS[unit]}": str(10 * number + unit) for number, tens in enumerate(_TENS, 2) for unit in range(1, 10)},
    **{word: f"{number}." for number, word in enumerate(_ORDINALS, 1)},
    **{f"{number}th": f"{number}." for number in range(4, 11)},
    "1st": "1.", "2nd": "2.", "3rd": "3.",
    "hundred": "100", "thousand": "1000", "dozen": "12",
}  # fmt: skip
"""By word: the number's digits, with a point after an ordinal."""
_COLOURS = (
    "amber", "beige", "black", "blond", "blue", "bronze", "brown", "burgundy", "charcoal", "copper", "coral", "cream", "crimson",
    "cyan", "emerald", "fuchsia", "gold", "gray", "green", "indigo", "ivory", "khaki", "lavender", "lilac", "lime", "magenta",
    "maroon", "mauve", "mint", "mustard", "navy", "ochre", "olive", "orange", "peach", "pink", "plum", "purple", "red", "ruby",
    "salmon", "sapphire", "scarlet", "silver", "tan", "teal", "turquoise", "violet", "white", "yellow",
)  # fmt: skip
_SAME_COLOUR = {"grey": "gray", "golden": "gold", "blonde": "blond", "silvery": "silver", "ocher": "ochre"}
_COLOUR_NAMES = {**{colour: colour for colour in _COLOURS}, **_SAME_COLOUR}

_WORD = re.compile(rf"(?:{'|'.join(_TENS)})-(?:{'|'.join(_UNITS[1:10])})(?![\w])|[^\W\d_]+|\d+(?:[.,]\d+)*(?:st|nd|rd|th)?")
_QUOTED = re.compile(
    r"\"([^\"\n]+)\"|“([^”\n]+)”|„([^“”\n]+)[“”]|«([^»\n]+)»|「([^」\n]+)」|‘([^’\n]+)’(?!\w)|(?<!\w)'([^'\n]+)'(?!\w)"
)


def lost_words(prompt: str, rewrite: str) -> list[str]:
    """The numbers, colours and quoted texts of a prompt that its rewrite lacks, in their order; a repeated one as often.

    Numbers and colours are compared by meaning, quoted texts character by character.
    """
    lost = []
    left = Counter(meaning for _, meaning in _named(rewrite))
    for word, meaning in _named(prompt):
        left[meaning] -= 1
        if left[meaning] < 0:
            lost.append(word)
    return lost + [text for text in quoted_texts(prompt) if text not in rewrite]


def named_meanings(text: str) -> set[str]:
    """The numbers and colours that a text names, each in one spelling."""
    return {meaning for _, meaning in _named(text)}


def quoted_texts(text: str) -> list[str]:
    """The texts in quotation marks. An apostrophe within a word is none."""
    return [next(filter(None, groups)) for groups in _QUOTED.findall(text)]


def _named(text: str) -> list[tuple[str, str]]:
    """Each number and colour with its meaning."""
    found = []
    for word in _WORD.findall(text):
        plain = word.lower()
        if plain[0].isdigit() and plain not in _NUMBERS:
            meaning: str | None = plain.replace(",", "")
        else:
            meaning = _NUMBERS.get(plain) or _COLOUR_NAMES.get(plain)
        if meaning is not None:
            found.append((word, meaning))
    return found
