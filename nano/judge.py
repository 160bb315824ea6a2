"""Judges a picture against its task: strictly, in words, without a network.

`picture_reader` reads the picture; here the reading is compared with what was expected, and an edited picture with its source.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .drawing_tasks import DrawingTask, ExpectedPicture
from .picture_reader import Mask, Reading, dilate, erode, read_picture, to_array
from .render import render, thing_mask
from .wording import NUMBERS, with_article
from .world import SIDE_PX, Scene, Thing, place_of, relation_between

Picture = Image.Image | NDArray[np.uint8]

MIN_PSNR_DB = 24.0
"""The lowest PSNR of an edited picture against its source, in the unchanged region."""
MARGIN_PX = 3
"""The margin between changed things and the unchanged region. Inside things on a new background it is one pixel less."""


def find_mistakes(picture: Picture, expected: ExpectedPicture) -> tuple[str, ...]:
    """Descriptions of all mistakes in a picture; empty if it is right."""
    return _reading_mistakes(read_picture(picture), expected)


def find_task_mistakes(picture: Picture, task: DrawingTask) -> tuple[str, ...]:
    """Descriptions of all mistakes in the picture that answers a task; of an edit also a change to the rest of the picture."""
    reading = read_picture(picture)
    mistakes = _reading_mistakes(reading, task.expected)
    if task.ability != "edit":
        return mistakes
    source = task.inputs[0]
    region = unchanged_region(source, task.target, reading.things)
    return mistakes + _kept_mistakes(to_array(picture), to_array(render(source)), region)


def find_edit_mistakes(picture: Picture, source: Picture, task: DrawingTask) -> tuple[str, ...]:
    """Descriptions of all mistakes in an edit of any picture, whose things need not be where the task's scenes have them."""
    reading, before = read_picture(picture), read_picture(source)
    removed, added = _changed_things(task)
    if task.inputs[0].background != task.target.background:
        region = erode(_union_mask(before.things), MARGIN_PX - 1)
    else:
        changed = [_nearest_match(thing, before.things) for thing in removed]
        changed += [_nearest_match(thing, reading.things) for thing in added]
        region = ~dilate(_union_mask(tuple(changed)), MARGIN_PX)
    return _reading_mistakes(reading, task.expected) + _kept_mistakes(to_array(picture), to_array(source), region)


def _reading_mistakes(reading: Reading, expected: ExpectedPicture) -> tuple[str, ...]:
    return (*reading.faults, *_background_mistakes(reading, expected), *_thing_mistakes(reading.things, expected))


def _background_mistakes(reading: Reading, expected: ExpectedPicture) -> Iterator[str]:
    if reading.background and reading.background != expected.background:
        yield f"the background is {reading.background}, not {expected.background}"


def _thing_mistakes(things: tuple[Thing, ...], expected: ExpectedPicture) -> Iterator[str]:
    if len(things) != len(expected.things):
        yield f"{_count_phrase(len(things))}, not {NUMBERS[len(expected.things)]}"
        return
    # Each thing is matched with an expected one so that the mistakes are fewest.
    matchings = (list(zip(order, expected.things, strict=True)) for order in itertools.permutations(things))
    best = min(matchings, key=lambda pairs: sum(not _matches(thing, kind) for thing, kind in pairs))
    mismatches = [(thing, kind) for thing, kind in best if not _matches(thing, kind)]
    for thing, kind in mismatches:
        actual = with_article(" ".join(word for word in (thing.size, thing.colour, thing.shape or "thing") if word))
        yield f"{actual} where {with_article(' '.join(word for word in kind if word))} was wanted"
    open_sizes = {thing.size for thing, (size, _, _) in best if not size and thing.size}
    if len(open_sizes) > 1 and not mismatches:
        yield "small and large things where the request leaves their one size open"
    if expected.place and place_of(things[0]) != expected.place:
        yield f"the thing is in the place {place_of(things[0])}, not {expected.place}"
    if expected.relation and not mismatches:
        relation = relation_between(best[0][0], best[1][0])
        if relation != expected.relation:
            yield f"the first thing is {relation}, not {expected.relation}"


def _matches(thing: Thing, kind: tuple[str, str, str]) -> bool:
    """Whether a thing is of the expected size, colour and shape; an open size matches every size but "" (between the sizes)."""
    return all(
        expected == actual if expected else bool(actual)
        for expected, actual in zip(kind, (thing.size, thing.colour, thing.shape), strict=True)
    )


def _count_phrase(count: int) -> str:
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{number} thing{'' if count == 1 else 's'}"


def _kept_mistakes(picture: NDArray[np.float32], source: NDArray[np.float32], region: Mask) -> tuple[str, ...]:
    psnr = psnr_db(picture, source, region)
    return (f"the rest was not kept: PSNR {psnr:.1f} dB is below {MIN_PSNR_DB:g} dB",) if psnr < MIN_PSNR_DB else ()


def _changed_things(task: DrawingTask) -> tuple[list[Thing], list[Thing]]:
    """The things that an edit takes away, and those that it brings; a thing that changes is among both."""
    before, after = task.inputs[0].things, task.target.things
    return [thing for thing in before if thing not in after], [thing for thing in after if thing not in before]


def unchanged_region(source: Scene, target: Scene, things: tuple[Thing, ...]) -> Mask:
    """The pixels (128, 128) in which an edited picture must equal its source.

    If the background changes, these are the pixels of things; else all but those of things in only one of source and target.
    An added thing may be elsewhere than in the target, so it is located among the `things` read from the picture.
    """
    if source.background != target.background:
        return erode(_union_mask(source.things), MARGIN_PX - 1)
    removed = [thing for thing in source.things if thing not in target.things]
    added = [thing for thing in target.things if thing not in source.things]
    if not removed:
        added = [_nearest_match(thing, things) for thing in added]
    return ~dilate(_union_mask((*removed, *added)), MARGIN_PX)


def _nearest_match(thing: Thing, things: tuple[Thing, ...]) -> Thing:
    """The nearest of the things of the same shape and colour; `thing` itself if there is none."""
    matches = [other for other in things if (other.shape, other.colour) == (thing.shape, thing.colour)]
    return min(matches, key=lambda other: math.hypot(other.x - thing.x, other.y - thing.y), default=thing)


def _union_mask(things: tuple[Thing, ...]) -> Mask:
    mask = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    for thing in things:
        mask |= thing_mask(thing)
    return mask


def psnr_db(picture: NDArray[np.float32], other: NDArray[np.float32], region: Mask) -> float:
    """Peak signal-to-noise ratio of two pictures (128, 128, 3), 0 to 255, within a region; infinite if they are equal there."""
    if not region.any():
        return math.inf
    error = float(((picture - other)[region].astype(np.float64) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
