"""Judges a picture against its task: strictly, in words, without a network.

`picture_reader` and `landscape_reader` read the picture; here the reading is compared with what was expected, and an edited
picture with its source.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..tasks.task_types import DrawingTask, ExpectedLandscape, ExpectedPicture
from ..tasks.wording import NUMBERS, landscape_phrase, thing_phrase, with_article
from ..world.landscapes import Landscape
from ..world.render import hollow_mask, render, thing_mask
from ..world.scenes import SQUARE, PictureSize, Scene, Thing, place_of, relation_between
from .landscape_reader import nearest_landscape, wrong_pixels
from .masks import Mask, dilate, erode
from .picture_reader import Pixels, Reading, read_picture, to_array

Picture = Image.Image | NDArray[np.uint8]

MIN_PSNR_DB = 24.0
"""The lowest PSNR of an edited picture against its source, in the unchanged region."""
MARGIN_PX = 3
"""The margin between changed things and the unchanged region. Inside things on a new background it is one pixel less,
inside outlined and striped ones two."""
MOST_MOVED_PX = 3.0
"""The largest distance by which an edit of a landscape may move its subject."""


def find_mistakes(picture: Picture, expected: ExpectedPicture | ExpectedLandscape) -> tuple[str, ...]:
    """Descriptions of all mistakes in a picture; empty if it is right."""
    if isinstance(expected, ExpectedLandscape):
        return tuple(_landscape_mistakes(to_array(picture), expected))
    return _reading_mistakes(read_picture(picture), expected)


def find_task_mistakes(picture: Picture, task: DrawingTask) -> tuple[str, ...]:
    """Descriptions of all mistakes in the picture that answers a task; of an edit also a change to the rest of the picture."""
    pixels = to_array(picture)
    if wrong_size := _size_mistakes(pixels, task.target.size_px):
        return wrong_size
    if task.ability != "edit":
        return find_mistakes(picture, task.expected)
    source, target = task.inputs[0], task.target
    if isinstance(task.expected, ExpectedLandscape):
        return tuple(_landscape_mistakes(pixels, task.expected, source))
    assert isinstance(source, Scene) and isinstance(target, Scene)
    reading = read_picture(picture)
    region = unchanged_region(source, target, reading.things)
    return _reading_mistakes(reading, task.expected) + _kept_mistakes(pixels, to_array(render(source)), region)


def find_edit_mistakes(picture: Picture, source: Picture, task: DrawingTask) -> tuple[str, ...]:
    """Descriptions of all mistakes in an edit of any picture, whose things need not be where the task's scenes have them."""
    pixels, source_pixels = to_array(picture), to_array(source)
    if wrong_size := _size_mistakes(pixels, (source_pixels.shape[1], source_pixels.shape[0])):
        return wrong_size
    if isinstance(task.expected, ExpectedLandscape):
        return tuple(_landscape_mistakes(pixels, task.expected, nearest_landscape(source_pixels)))
    reading, before = read_picture(picture), read_picture(source)
    region = _read_region(task, before, reading)
    return _reading_mistakes(reading, task.expected) + _kept_mistakes(pixels, source_pixels, region)


def _read_region(task: DrawingTask, before: Reading, after: Reading) -> Mask:
    """The pixels in which an edited picture must equal its source, by the things that were read from both."""
    source, target = task.inputs[0], task.target
    assert isinstance(source, Scene) and isinstance(target, Scene)
    if source.background != target.background:
        return _inner_mask(before.things, before.size_px)
    removed, added = _changed_things(source, target)
    changed = [_nearest_match(thing, before.things) for thing in removed]
    changed += [_nearest_match(thing, after.things) for thing in added]
    return ~dilate(_union_mask(tuple(changed), before.size_px), MARGIN_PX)


def _size_mistakes(pixels: Pixels, size_px: PictureSize) -> tuple[str, ...]:
    height, width = pixels.shape[:2]
    if (width, height) == size_px:
        return ()
    return (f"the picture is {width} x {height} px, not {size_px[0]} x {size_px[1]} px",)


def _landscape_mistakes(
    pixels: Pixels, expected: ExpectedLandscape, source: Scene | Landscape | None = None
) -> Iterator[str]:
    """Mistakes in a picture that must show a landscape; of an edit also a subject elsewhere than in the source."""
    shown = nearest_landscape(pixels)
    wrong = int(wrong_pixels(pixels, shown).sum())
    if wrong:
        yield f"{wrong} pixels differ from {landscape_phrase(shown)}, the nearest landscape"
    is_right_time = expected.is_night is None or shown.is_night == expected.is_night
    if (shown.subject, shown.colour) != (expected.subject, expected.colour) or not is_right_time:
        yield f"it shows {landscape_phrase(shown)}, not {_wanted_landscape(shown, expected)}"
    if isinstance(source, Landscape) and abs(shown.shift_px - source.shift_px) > MOST_MOVED_PX:
        yield f"the {shown.subject} was moved by {abs(shown.shift_px - source.shift_px):.1f} px"


def _wanted_landscape(shown: Landscape, expected: ExpectedLandscape) -> str:
    """The phrase for a landscape, with the time if the request states it."""
    is_timed = expected.is_night is not None
    wanted = replace(shown, subject=expected.subject, colour=expected.colour, is_night=bool(expected.is_night))
    return landscape_phrase(wanted, with_time=is_timed)


def _reading_mistakes(reading: Reading, expected: ExpectedPicture) -> tuple[str, ...]:
    return (*reading.faults, *_background_mistakes(reading, expected), *_thing_mistakes(reading, expected))


def _background_mistakes(reading: Reading, expected: ExpectedPicture) -> Iterator[str]:
    if reading.background and reading.background != expected.background:
        yield f"the background is {reading.background}, not {expected.background}"


def _thing_mistakes(reading: Reading, expected: ExpectedPicture) -> Iterator[str]:
    things = reading.things
    if len(things) != len(expected.things):
        yield f"{_count_phrase(len(things))}, not {NUMBERS[len(expected.things)]}"
        return
    # Each thing is matched with an expected one so that the mistakes are fewest.
    styles = expected.styles or ("",) * len(things)
    kinds = [_Kind(*kind, style) for kind, style in zip(expected.things, styles, strict=True)]
    matchings = (list(zip(order, kinds, strict=True)) for order in itertools.permutations(things))
    best = min(matchings, key=lambda pairs: sum(not _matches(thing, kind) for thing, kind in pairs))
    mismatches = [(thing, kind) for thing, kind in best if not _matches(thing, kind)]
    for thing, kind in mismatches:
        actual = with_article(thing_phrase(replace(thing, shape=thing.shape or "thing")))
        yield f"{actual} where {with_article(kind.phrase)} was wanted"
    open_sizes = {thing.size for thing, kind in best if not kind.size and thing.size}
    if len(open_sizes) > 1 and not mismatches:
        yield "small and large things where the request leaves their one size open"
    if expected.place and (place := place_of(things[0], reading.size_px)) != expected.place:
        yield f"the thing is in the place {place}, not {expected.place}"
    if expected.relation and not mismatches:
        relation = relation_between(best[0][0], best[1][0])
        if relation != expected.relation:
            yield f"the first thing is {relation}, not {expected.relation}"


class _Kind(NamedTuple):
    """An expected thing; the size is "" where the request leaves it open."""

    size: str
    colour: str
    shape: str
    style: str

    @property
    def phrase(self) -> str:
        return " ".join(word for word in (self.size, self.style, self.colour, self.shape) if word)


def _matches(thing: Thing, kind: _Kind) -> bool:
    """Whether a thing is of the expected kind; an open size matches every size but "" (between the sizes)."""
    is_right_size = thing.size == kind.size if kind.size else bool(thing.size)
    return is_right_size and (thing.colour, thing.shape, thing.style) == (kind.colour, kind.shape, kind.style)


def _count_phrase(count: int) -> str:
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{number} thing{'' if count == 1 else 's'}"


def _kept_mistakes(picture: Pixels, source: Pixels, region: Mask) -> tuple[str, ...]:
    psnr = psnr_db(picture, source, region)
    return (f"the rest was not kept: PSNR {psnr:.1f} dB is below {MIN_PSNR_DB:g} dB",) if psnr < MIN_PSNR_DB else ()


def _changed_things(source: Scene, target: Scene) -> tuple[list[Thing], list[Thing]]:
    """The things that an edit takes away, and those that it brings; a thing that changes is among both."""
    before, after = source.things, target.things
    return [thing for thing in before if thing not in after], [thing for thing in after if thing not in before]


def unchanged_region(source: Scene, target: Scene, things: tuple[Thing, ...]) -> Mask:
    """The pixels (height, width) in which an edited picture must equal its source.

    If the background changes, these are the pixels of things; else all but those of things in only one of source and target.
    An added thing may be elsewhere than in the target, so it is located among the `things` read from the picture.
    """
    if source.background != target.background:
        return _inner_mask(source.things, source.size_px)
    removed, added = _changed_things(source, target)
    if not removed:
        added = [_nearest_match(thing, things) for thing in added]
    return ~dilate(_union_mask((*removed, *added), source.size_px), MARGIN_PX)


def _nearest_match(thing: Thing, things: tuple[Thing, ...]) -> Thing:
    """The nearest of the things of the same shape and colour; `thing` itself if there is none."""
    matches = [other for other in things if (other.shape, other.colour) == (thing.shape, thing.colour)]
    return min(matches, key=lambda other: math.hypot(other.x - thing.x, other.y - thing.y), default=thing)


def _union_mask(things: tuple[Thing, ...], size_px: PictureSize = SQUARE) -> Mask:
    mask = np.zeros((size_px[1], size_px[0]), np.bool_)
    for thing in things:
        mask |= thing_mask(thing, size_px)
    return mask


def _inner_mask(things: tuple[Thing, ...], size_px: PictureSize) -> Mask:
    """The pixels inside things that have their colour, away from edges. Things without a shape have been judged already."""
    mask = np.zeros((size_px[1], size_px[0]), np.bool_)
    for thing in things:
        if thing.style:
            solid = thing_mask(thing, size_px) & (np.asarray(hollow_mask(thing, size_px, 1)) < 128)
            mask |= erode(solid, MARGIN_PX - 2)
        elif thing.shape:
            mask |= erode(thing_mask(thing, size_px), MARGIN_PX - 1)
    return mask


def psnr_db(picture: NDArray[np.float32], other: NDArray[np.float32], region: Mask) -> float:
    """Peak signal-to-noise ratio of pictures (height, width, 3), 0 to 255, within a region; infinite if they are equal there."""
    if not region.any():
        return math.inf
    error = float(((picture - other)[region].astype(np.float64) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
