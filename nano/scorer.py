"""Says what is wrong with a picture, given what it must show; strictly, and without a network.

`reader` says what a picture shows; here that is held against what was wanted, and an edited picture against its source.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .drawing_tasks import DrawingTask, Wanted
from .language import NUMBERS, article
from .reader import Mask, Reading, grown, pixels_of, read, shaved
from .render import mask, render
from .world import SIDE_PX, Scene, Thing, relation_between

Picture = Image.Image | NDArray[np.uint8]

LEAST_PSNR_DB = 24.0
"""How like its source an edited picture must be outside the changed region."""
MARGIN_PX = 3
"""The changed region reaches this much beyond what changed; what is kept of things on a new background, less inwards."""


def mistakes(picture: Picture, wanted: Wanted) -> tuple[str, ...]:
    """What is wrong with the picture, in words; empty if it is right."""
    return mistakes_in(read(picture), wanted)


def task_mistakes(picture: Picture, task: DrawingTask) -> tuple[str, ...]:
    """What is wrong with the picture that answers a task; for an edit also whether the rest was kept."""
    reading = read(picture)
    found = mistakes_in(reading, task.wanted)
    if task.ability != "edit":
        return found
    source = task.inputs[0]
    kept = psnr_db(pixels_of(picture), pixels_of(render(source)), kept_region(source, task.target, reading.things))
    if kept < LEAST_PSNR_DB:
        found += (f"the rest was not kept: PSNR {kept:.1f} dB is below {LEAST_PSNR_DB:g} dB",)
    return found


def mistakes_in(reading: Reading, wanted: Wanted) -> tuple[str, ...]:
    """As `mistakes`, of a picture that was read already."""
    return (*reading.faults, *_wrong_background(reading, wanted), *_wrong_things(reading.things, wanted))


def _wrong_background(reading: Reading, wanted: Wanted) -> Iterator[str]:
    if reading.background and reading.background != wanted.background:
        yield f"the background is {reading.background}, not {wanted.background}"


def _wrong_things(things: tuple[Thing, ...], wanted: Wanted) -> Iterator[str]:
    if len(things) != len(wanted.things):
        yield f"{_counted(len(things))}, not {NUMBERS[len(wanted.things)]}"
        return
    # Each found thing is held against one wanted thing, so that there are as few mistakes as possible.
    pairings = (list(zip(ordered, wanted.things, strict=True)) for ordered in itertools.permutations(things))
    best = min(pairings, key=lambda pairs: sum(not _fits(thing, kind) for thing, kind in pairs))
    wrong = [(thing, kind) for thing, kind in best if not _fits(thing, kind)]
    for thing, kind in wrong:
        found = article(" ".join(word for word in (thing.size, thing.colour, thing.shape or "thing") if word))
        yield f"{found} where {article(' '.join(word for word in kind if word))} was wanted"
    if wanted.relation and not wrong:
        relation = relation_between(best[0][0], best[1][0])
        if relation != wanted.relation:
            yield f"the first thing is {relation}, not {wanted.relation}"


def _fits(thing: Thing, kind: tuple[str, str, str]) -> bool:
    """Whether a thing is as wanted; a size that was left open may be any, but not none."""
    return all(
        said == seen if said else bool(seen)
        for said, seen in zip(kind, (thing.size, thing.colour, thing.shape), strict=True)
    )


def _counted(count: int) -> str:
    number = NUMBERS[count] if count < len(NUMBERS) else str(count)
    return f"{number} thing{'' if count == 1 else 's'}"


def kept_region(source: Scene, target: Scene, found: tuple[Thing, ...]) -> Mask:
    """Where an edited picture must be as its source, (128, 128).

    Where the background changes, that is the things; else all but what is in only one of source and target. A thing
    that was added may stand elsewhere than in the target: it is looked for among those `found` in the picture.
    """
    if source.background != target.background:
        return shaved(_union(source.things), MARGIN_PX - 1)
    gone = [thing for thing in source.things if thing not in target.things]
    new = [thing for thing in target.things if thing not in source.things]
    if not gone:
        new = [_alike(thing, found) for thing in new]
    return ~grown(_union((*gone, *new)), MARGIN_PX)


def _alike(thing: Thing, found: tuple[Thing, ...]) -> Thing:
    """The found thing of the same shape and colour that is nearest to where `thing` was put; `thing` itself if none."""
    same = [other for other in found if (other.shape, other.colour) == (thing.shape, thing.colour)]
    return min(same, key=lambda other: math.hypot(other.x - thing.x, other.y - thing.y), default=thing)


def _union(things: tuple[Thing, ...]) -> Mask:
    covered = np.zeros((SIDE_PX, SIDE_PX), np.bool_)
    for thing in things:
        covered |= mask(thing)
    return covered


def psnr_db(picture: NDArray[np.float32], other: NDArray[np.float32], where: Mask) -> float:
    """Peak signal-to-noise ratio of two pictures (128, 128, 3), 0 to 255, within a region; infinite if equal there."""
    if not where.any():
        return math.inf
    error = float(((picture - other)[where].astype(np.float64) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
