"""Phrases for things, relations and backgrounds, in several wordings each. WORLD.md describes them for readers."""

from __future__ import annotations

from collections.abc import Sequence

from ..world.landscapes import Landscape
from ..world.scenes import Sampler, Scene, Thing, relation_between

NUMBERS = ("no", "one", "two", "three")
BETWEEN = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
"""Wordings of each relation; nano's own answers use the first one."""
ORDINALS = ("first", "second", "third")
PLAIN = "plain"
"""The word for the style of a thing that is neither outlined nor striped; only edits say it."""
TIMES = {"day": "by day", "night": "at night"}
RECOLOURINGS = ("make the {} {}", "change the colour of the {} to {}", "paint the {} {}", "turn the {} {}")
REPLACEMENTS = ("replace the {} with {}", "swap the {} for {}", "turn the {} into {}")
COLOUR_QUESTIONS = ("what colour is the {}?", "which colour has the {}?")
DESCRIPTION_QUESTIONS = ("describe the picture", "what do you see?", "what is in the picture?")
"""Wordings that edits of and questions about things and landscapes share."""


def with_article(words: str) -> str:
    """The words after "a" or "an"."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def thing_phrase(thing: Thing, with_size: bool = True) -> str:
    """ "large striped red circle", or "striped red circle" without its size; a plain thing has no word for its style."""
    words = (thing.size if with_size else "", thing.style, thing.colour, thing.shape)
    return " ".join(word for word in words if word)


def thing_name(thing: Thing) -> str:
    """ "red circle": an edit's name for a thing in the picture."""
    return f"{thing.colour} {thing.shape}"


def landscape_phrase(landscape: Landscape, with_time: bool = True) -> str:
    """ "a red house at night", or "a red house" without the time."""
    words = f"{with_article(landscape.colour)} {landscape.subject}"
    return f"{words} {TIMES[landscape.time]}" if with_time else words


def on_background(colour: str, sampler: Sampler | None = None) -> str:
    """ "on a blue background"; with a sampler sometimes "on blue"."""
    is_short = sampler is not None and sampler.chance(0.3)
    return f"on {colour}" if is_short else f"on {with_article(colour)} background"


def draw_prompt(sampler: Sampler, words: str) -> str:
    """A request to draw what the words describe."""
    return f"{sampler.choice(('', '', 'draw ', 'a picture of '))}{words}"


def caption(scene: Scene | Landscape) -> str:
    """The scene in nano's own wording. Of two unlike things the left or upper one comes first, so the caption is unique."""
    if isinstance(scene, Landscape):
        return landscape_phrase(scene)
    things, background = scene.things, on_background(scene.background)
    if len(things) > 1 and are_alike(things):
        return f"{NUMBERS[len(things)]} {thing_phrase(things[0])}s {background}"
    if len(things) == 2:
        things = things if relation_between(*things) in ("left", "above") else things[::-1]
        between = BETWEEN[relation_between(*things)][0]
        return f"{with_article(thing_phrase(things[0]))} {between} {with_article(thing_phrase(things[1]))} {background}"
    return f"{listed([with_article(thing_phrase(thing)) for thing in things])} {background}"


def are_alike(things: Sequence[Thing]) -> bool:
    """Whether all have the same size, style, colour and shape."""
    return len({thing_phrase(thing) for thing in things}) == 1


def listed(phrases: Sequence[str]) -> str:
    """ "a, b and c"."""
    *before, last = phrases
    return f"{', '.join(before)} and {last}" if before else last
