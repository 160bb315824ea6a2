"""The words of a prompt that must not get lost: numbers, colours, and texts in quotation marks.

Numbers and colours are English words and digits; "two" and "2" are the same, and so are "grey" and "gray". Knows no model.
"""

from __future__ import annotations

import re
from collections import Counter

from .numbers_in_words import numbers_and_words

_COLOURS = (
    "amber", "beige", "black", "blond", "blue", "bronze", "brown", "burgundy", "charcoal", "copper", "coral", "cream", "crimson",
    "cyan", "emerald", "fuchsia", "gold", "gray", "green", "indigo", "ivory", "khaki", "lavender", "lilac", "lime", "magenta",
    "maroon", "mauve", "mint", "mustard", "navy", "ochre", "olive", "orange", "peach", "pink", "plum", "purple", "red", "ruby",
    "salmon", "sapphire", "scarlet", "silver", "tan", "teal", "turquoise", "violet", "white", "yellow",
)  # fmt: skip
_SAME_COLOUR = {"grey": "gray", "golden": "gold", "blonde": "blond", "silvery": "silver", "ocher": "ochre"}
_COLOUR_NAMES = {**{colour: colour for colour in _COLOURS}, **_SAME_COLOUR}

_MARKS = [*zip("“”«»‹›「『", "””»«›‹」』", strict=True)]
_IN_WORD = r"(?<=\w)['’](?=\w)"
_LENGTH = "{1,1000}"
"""Characters of a quoted text; what is longer is taken for unbalanced quotation marks."""
_QUOTED = re.compile(
    "|".join(
        (
            rf'(?<!\d)"([^"]{_LENGTH})"',
            *(f"{begin}([^{end}]{_LENGTH}){end}" for begin, end in _MARKS),
            f"„([^“”]{_LENGTH})[“”]",
            f"‚([^‘’]{_LENGTH})[‘’]",
            rf"‘((?:[^’]|{_IN_WORD}){_LENGTH})’(?!\w)",
            rf"(?<!\w)'((?:[^']|{_IN_WORD}){_LENGTH})'(?!\w)",
        )
    )
)


def lost_words(prompt: str, rewrite: str) -> list[str]:
    """The numbers, colours and quoted texts of a prompt that its rewrite lacks, in their order; a repeated one as often.

    Numbers and colours are compared by meaning, quoted texts character by character, as a whole: "START" does not hold "ART".
    """
    lost = []
    left = Counter(meaning for _, meaning in _named(rewrite))
    for word, meaning in _named(prompt):
        left[meaning] -= 1
        if left[meaning] < 0:
            lost.append(word)
    return lost + [text for text in quoted_texts(prompt) if not _holds(rewrite, text)]


def named_meanings(text: str) -> set[str]:
    """The numbers and colours that a text names, each in one spelling."""
    return {meaning for _, meaning in _named(text)}


def quoted_texts(text: str) -> list[str]:
    """The texts in quotation marks, each in one line. An apostrophe within a word is none."""
    texts = (next(filter(None, groups)) for groups in _QUOTED.findall(text))
    return [" ".join(each.split()) for each in texts if each.strip()]


def _holds(rewrite: str, text: str) -> bool:
    """Whether a text stands in a rewrite, and not as a part of longer words."""
    begin = r"(?<!\w)" if re.match(r"\w", text) else ""
    end = r"(?!\w)" if re.match(r"\w", text[-1]) else ""
    return re.search(begin + re.escape(text) + end, " ".join(rewrite.split())) is not None


def _named(text: str) -> list[tuple[str, str]]:
    """Each number and colour with its meaning."""
    found = []
    for each in numbers_and_words(text):
        word = text[each.begin : each.end]
        meaning = _COLOUR_NAMES.get(word.lower()) if each.meaning is None else each.meaning
        if meaning is not None:
            found.append((word, meaning))
    return found
