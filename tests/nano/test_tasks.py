"""The tasks are answerable: each has one right answer, and no picture of the training shows what is held out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from omnigen2_rt.nano import drawing_tasks, talking_tasks
from omnigen2_rt.nano.drawing_tasks import DrawingTask
from omnigen2_rt.nano.language import caption, kind
from omnigen2_rt.nano.reader import read
from omnigen2_rt.nano.render import render
from omnigen2_rt.nano.talking_tasks import TalkingTask
from omnigen2_rt.nano.world import (
    COLOURS,
    DENTS_SPREAD,
    HELD_OUT,
    LEAST_DENTS_SPREAD,
    MIDDLE,
    RADII_PX,
    RELATIONS,
    SHAPES,
    Sampler,
    Scene,
    is_badly_drawn,
    is_held_out,
    outline,
)

DRAWING = (drawing_tasks.draw_one, drawing_tasks.draw_two, drawing_tasks.draw_count, drawing_tasks.combine)
TALKING = (talking_tasks.look, talking_tasks.decide, talking_tasks.reflect)
MANY = 400


@pytest.mark.parametrize("make", (*DRAWING, *drawing_tasks.EDITS), ids=lambda make: make.__name__)
def test_drawing_tasks_show_only_things_apart_from_their_background(make: Callable[[Sampler], DrawingTask]) -> None:
    sampler = Sampler(1)
    for task in (make(sampler) for _ in range(MANY)):
        for scene in (*task.inputs, task.target):
            assert scene.background not in {thing.colour for thing in scene.things}, task
            for thing in scene.things:
                corners = outline("star", thing.radius)
                assert all(0 < thing.x + x < 128 and 0 < thing.y + y < 128 for x, y in corners), thing


@pytest.mark.parametrize("make", (*DRAWING, drawing_tasks.edit), ids=lambda make: make.__name__)
def test_drawing_tasks_hold_nothing_that_is_held_out(make: Callable[[Sampler], DrawingTask]) -> None:
    sampler = Sampler(2)
    for task in (make(sampler) for _ in range(MANY)):
        assert not any(map(is_held_out, (*task.inputs, task.target))), task


@pytest.mark.parametrize("make", TALKING, ids=lambda make: make.__name__)
def test_talking_tasks_hold_nothing_that_is_held_out(make: Callable[[Sampler], TalkingTask]) -> None:
    sampler = Sampler(3)
    for task in (make(sampler) for _ in range(MANY)):
        assert not any(map(is_held_out, task.inputs)), task


def test_held_out_is_a_tenth_and_its_tasks_show_it() -> None:
    assert len(HELD_OUT) == len(COLOURS) * len(SHAPES) * (len(COLOURS) - 1) // 10
    sampler = Sampler(4)
    assert all(is_held_out(drawing_tasks.draw_held_out(sampler).target) for _ in range(MANY))


@pytest.mark.parametrize("relation", RELATIONS)
def test_caption_of_two_things_is_the_same_in_either_order(relation: str) -> None:
    """Both "left of" and "right of" describe a picture; answers named the thing that was drawn first, which nobody sees."""
    sampler = Sampler(5)
    for scene in (sampler.related(relation) for _ in range(20)):
        turned = type(scene)(background=scene.background, things=scene.things[::-1])
        assert caption(scene) == caption(turned)
        assert " to the left of " in caption(scene) or " above " in caption(scene)


def test_mending_edit_says_a_size_only_if_the_request_did() -> None:
    """A missing thing's size was said in the edit though neither the request nor the picture told it."""
    sampler = Sampler(6)
    tasks = (talking_tasks.reflect(sampler) for _ in range(8 * MANY))
    added = [task for task in tasks if task.answer.startswith("add ")]
    assert len(added) > 20
    for task in added:
        assert any(size in task.answer for size in RADII_PX) == any(size in task.question for size in RADII_PX), task


@pytest.mark.parametrize("shape", SHAPES)
def test_uneven_things_are_no_longer_of_their_shape_and_a_little_uneven_ones_are(shape: str) -> None:
    sampler = Sampler(8)
    for spread, least, right in ((DENTS_SPREAD, LEAST_DENTS_SPREAD, 0.15), (0.03, 0.0, 1.0)):
        taken = 0
        for _ in range(100):
            thing = replace(sampler.thing(MIDDLE, shape=shape, colour="red"), dents=sampler.dents(spread, least))
            seen = read(render(Scene(background="white", things=(thing,))))
            taken += not seen.faults and seen.things[0].shape == shape
        assert taken == 100 * right if right == 1 else taken <= 100 * right


def test_redrawing_mends_what_is_badly_drawn_and_keeps_the_rest() -> None:
    sampler = Sampler(9)
    dented = 0
    for task in (drawing_tasks.redraw(sampler) for _ in range(MANY)):
        (bad,) = (thing for thing in task.inputs[0].things if is_badly_drawn(thing))
        (mended,) = (thing for thing in task.target.things if (thing.x, thing.y) == (bad.x, bad.y))
        assert mended == replace(bad, dents=(), radius=mended.radius) and mended.shape in task.prompt
        assert {*task.target.things} - {mended} == {*task.inputs[0].things} - {bad}
        assert not any(map(is_badly_drawn, task.target.things))
        dented += bool(bad.dents)
    assert 0.4 < dented / MANY < 0.6


def test_unlike_things_differ_in_shape_and_colour_and_alike_ones_in_nothing() -> None:
    sampler = Sampler(7)
    for _ in range(MANY):
        first, second = sampler.related("left").things
        assert first.shape != second.shape and first.colour != second.colour
        assert len({kind(thing) for thing in sampler.counted(3).things}) == 1
