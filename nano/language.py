"""Nano's words: how things, places and requests are said, several wordings each. WORLD.md states it for readers."""

from __future__ import annotations

from .world import Sampler, Scene, Thing, relation_between

NUMBERS = ("no", "one", "two", "three")
BETWEEN = {
    "left": ("to the left of", "left of"),
    "right": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
"""The first wording of each is the one that nano itself uses."""
ORDINALS = ("first", "second", "third")


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def kind(thing: Thing, with_size: bool = True) -> str:
    """ "large red circle", or without its size."""
    return f"{thing.size} {thing.colour} {thing.shape}" if with_size else f"{thing.colour} {thing.shape}"


def name(thing: Thing) -> str:
    """ "red circle": how a request points at a thing that is there."""
    return kind(thing, with_size=False)


def on_background(colour: str, sampler: Sampler | None = None) -> str:
    """ "on a blue background", or "on blue"."""
    brief = sampler is not None and sampler.chance(0.3)
    return f"on {colour}" if brief else f"on {article(colour)} background"


def caption(scene: Scene) -> str:
    """The scene in nano's own words. Of two different things the left or upper one comes first: there is one right answer."""
    things, ground = scene.things, on_background(scene.background)
    if len(things) == 1:
        return f"{article(kind(things[0]))} {ground}"
    if all(kind(thing) == kind(things[0]) for thing in things):
        return f"{NUMBERS[len(things)]} {kind(things[0])}s {ground}"
    first, second = things if relation_between(*things) in ("left", "above") else reversed(things)
    between = BETWEEN[relation_between(first, second)][0]
    return f"{article(kind(first))} {between} {article(kind(second))} {ground}"
