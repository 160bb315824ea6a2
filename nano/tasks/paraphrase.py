"""Other words for the same request: synonyms, missing articles, capitals, a full stop, politeness.

WORLD.md lists them. Knows texts and no tasks.
"""

from __future__ import annotations

import re

from ..world.scenes import Sampler

SYNONYMS: dict[str, tuple[str, ...]] = {
    "large": ("big", "huge"),
    "small": ("little", "tiny"),
    "bigger": ("larger",),
    "colour": ("color",),
    "remove": ("get rid of", "erase"),
    "delete": ("get rid of", "erase"),
    "take away": ("get rid of",),
    "picture": ("image",),
    "two": ("2",),
    "three": ("3",),
    "object": ("thing",),
    "objects": ("things", "shapes"),
    "draw": ("show me", "make", "paint"),
    "add": ("draw",),
    "middle": ("centre",),
}
"""Words and their alternatives."""
POLITE = ("please {}", "{}, please", "{} please", "could you {}", "now {}")
ARTICLES = re.compile(r"\b(?:a|an|the) ")
GROUND = re.compile(r"on an? (\w+) background$")
GROUNDS = ("on {} background", "with a {} background", "and a {} background")
"""Other words for a stated background, without respect to "a" or "an"."""


def paraphrase(text: str, sampler: Sampler, is_request: bool) -> str:
    """The text in other words, with each of the changes at random. is_request: whether it asks for a picture."""
    text = re.sub("|".join(rf"\b{word}\b" for word in SYNONYMS), lambda found: _synonym(found[0], sampler), text)
    text = re.sub(r"\ba(?= [aeiou])", "an", text)
    if (ground := GROUND.search(text)) and not text.startswith("put it") and sampler.chance(0.2):
        text = text[: ground.start()] + sampler.choice(GROUNDS).format(ground[1])
    if sampler.chance(0.25):
        text = ARTICLES.sub("", text)
    if is_request and sampler.chance(0.15):
        text = sampler.choice(POLITE).format(text)
    if sampler.chance(0.2):
        text = f"{text}." if is_request else text.rstrip("?")
    share = sampler.rng.random()
    if share < 0.06:
        return text.upper()
    return text[0].upper() + text[1:] if share < 0.35 else text


def _synonym(word: str, sampler: Sampler) -> str:
    return sampler.choice(SYNONYMS[word]) if sampler.chance(0.25) else word
