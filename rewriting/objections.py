"""A rewritten prompt as it is drawn, and the reasons not to draw it. Knows texts alone."""

from __future__ import annotations

import re
import unicodedata

from .named_words import lost_words

MOST_WORDS = 300
"""The longest rewrite: two to three times what the templates ask for."""
MOST_CHARACTERS = 4000
_COUNTED_WORDS, _LEAST_NEW = 40, 0.5
"""A text of so many words must not repeat more than half of its groups of three words."""
_MARKUP = re.compile(r"```|~~~|</?[a-z][\w-]*(?:\s[^<>]*)?/?>", re.IGNORECASE)
_JOINERS = "\u200c\u200d\u00ad"
_QUOTES = {'"': '"', "'": "'", "“": "”", "«": "»", "`": "`"}


def cleaned(answer: str) -> str:
    """The answer in one line, without an announcement ("Here it is:") and without quotation marks around all of it."""
    first, _, rest = answer.strip().partition("\n")
    text = " ".join((rest if first.rstrip().endswith(":") and rest.strip() else answer).split())
    end = _QUOTES.get(text[:1])
    is_quoted = len(text) > 1 and end is not None and text.endswith(end) and not {text[0], end} & {*text[1:-1]}
    return text[1:-1].strip() if is_quoted else text


def objection(prompt: str, rewrite: str) -> str | None:
    """The reason why a rewrite must not replace its prompt, or None."""
    words = rewrite.split()
    if not words:
        return "it is empty"
    if len(words) > MOST_WORDS or len(rewrite) > MOST_CHARACTERS:
        return f"it has {len(words)} words; at most {MOST_WORDS} are taken, and {MOST_CHARACTERS} characters"
    if lost := lost_words(prompt, rewrite):
        return f"it lost {', '.join(map(repr, lost[:3]))}"
    if len(rewrite) <= len(prompt):
        return "it is no longer than the prompt"
    if re.search(r"<\|\w+\|>", rewrite) and not re.search(r"<\|\w+\|>", prompt):
        return "it holds a special token"
    if _MARKUP.search(rewrite) and not _MARKUP.search(prompt):
        return "it holds a code fence or HTML"
    if controls := sorted(filter(_is_control, {*rewrite} - {*prompt})):
        return f"it holds the control character U+{ord(controls[0]):04X}"
    return "it repeats itself" if _repeats(words) else None


def _is_control(character: str) -> bool:
    """Whether it is a character that shows nothing and controls how others are shown. Emoji and some scripts need the joiners."""
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs") and character not in _JOINERS


def _repeats(words: list[str]) -> bool:
    groups = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
    return len(words) >= _COUNTED_WORDS and len({*groups}) < _LEAST_NEW * len(groups)
